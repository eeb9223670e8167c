/*-------------------------------------------------------------------------
 *
 * post_loop.c
 *		The least that a request to a model server costs: libcurl, one kept
 *		connection, the same body again and again, and nothing else.
 *
 *		post_loop URL BODY TIMES
 *
 * Prints how long each request took, in ms, one per line.  The first, which
 * opens the connection, is not counted.
 *
 * IDENTIFICATION
 *		test/bench/post_loop.c
 *
 *-------------------------------------------------------------------------
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/*
 * now_ms - monotonic time in ms
 */
static double
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

/*
 * drop - CURLOPT_WRITEFUNCTION: nobody wants to read the answer
 */
static size_t
drop(char *data, size_t size, size_t nmemb, void *arg)
{
	(void) data;
	(void) arg;
	return size * nmemb;
}

/*
 * post - send the request once; exits if there is no good answer
 */
static void
post(CURL * curl)
{
	CURLcode	code = curl_easy_perform(curl);
	long		status = 0;

	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	if (code == CURLE_OK && status == 200)
		return;
	fprintf(stderr, "post_loop: status %ld, %s\n", status,
			curl_easy_strerror(code));
	exit(1);
}

int
main(int argc, char **argv)
{
	CURL	   *curl;
	struct curl_slist *headers;

	if (argc != 4)
	{
		fprintf(stderr, "usage: post_loop URL BODY TIMES\n");
		return 1;
	}
	curl_global_init(CURL_GLOBAL_DEFAULT);
	curl = curl_easy_init();
	headers = curl_slist_append(NULL, "Content-Type: application/json");
	curl_easy_setopt(curl, CURLOPT_URL, argv[1]);
	curl_easy_setopt(curl, CURLOPT_POSTFIELDS, argv[2]);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");

	post(curl);
	for (int i = 0; i < atoi(argv[3]); i++)
	{
		double		begin = now_ms();

		post(curl);
		printf("%.4f\n", now_ms() - begin);
	}
	curl_slist_free_all(headers);
	curl_easy_cleanup(curl);
	return 0;
}
