# Every way in which a model server can fail, one at a time: what becomes of
# the row that it hits, of those around it, and what reaches the wire.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;

# One worker: the stand-in hears of a client that has left a moment later than
# another worker does.
my $node = new_node('faults', "sabot.llm_workers = 1\n");

# The rows of all cases.  Of three the second one's prompt has the fault.
# Those named "restart" wait, with their answer, for whoever holds the lock.
sql($node, <<'SQL');
CREATE TABLE item (name text, n int, fault text NOT NULL DEFAULT '',
	answer text DEFAULT 'untouched', label text,
	PRIMARY KEY (name, n));
CREATE TABLE case_job (name text PRIMARY KEY, job_id bigint);
CREATE FUNCTION hold_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.name LIKE 'restart%' AND NEW.n = 1 THEN
		PERFORM pg_advisory_xact_lock(1);
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER hold_back BEFORE UPDATE ON item
	FOR EACH ROW EXECUTE FUNCTION hold_back();
SQL

# submit_case(NAME, FAULT, ARGUMENTS) - three rows; the job's id
sub submit_case
{
	my ($name, $fault, $args) = @_;
	my $marker = $fault eq '' ? '' : "[[fault:$fault]]";

	$args = $args ? ", $args" : '';
	$args .= ", output => 'answer'" unless $args =~ /output =>/;
	sql($node, <<"SQL");
INSERT INTO item (name, n, fault)
	SELECT '$name', n, CASE n WHEN 2 THEN '$marker' ELSE '' END
	FROM generate_series(1, 3) AS n;
INSERT INTO case_job SELECT '$name', sabot.submit_llm_job(
	\$\$SELECT name, n, fault FROM item WHERE name = '$name' ORDER BY n\$\$,
	'$name row {n} {fault}', target => 'item', name => '$name' $args);
SQL
	return sql($node, "SELECT job_id FROM case_job WHERE name = '$name'");
}

# job_of(NAME) - the job of a case
sub job_of
{
	my ($name) = @_;

	return sql($node, "SELECT job_id FROM case_job WHERE name = '$name'");
}

# look(NAMES...) - what is known of the rows of these cases, by name and number:
# state, by whom, class, attempts, failures counted, text in the target; and
# errors, by name, of the second ones
my (%row, %error);

sub look
{
	my $names = join ',', map { "'$_'" } @_;

	foreach (split /\n/, sql($node, <<"SQL"))
SELECT c.name || '#' || r.item || '#' || concat_ws('|', r.state, r.answered_by,
	coalesce(r.error_class, '-'), r.attempts,
	(SELECT count(*) FROM sabot.llm_failure AS f
		WHERE f.job_id = r.job_id AND f.item = r.item),
	CASE WHEN i.label IS NULL THEN i.answer ELSE 'label' END)
	|| '#' || coalesce(r.error, '')
FROM case_job AS c JOIN sabot.llm_result AS r USING (job_id)
	JOIN item AS i ON i.name = c.name AND i.n = r.item
WHERE c.name IN ($names)
SQL
	{
		my ($name, $n, $row, $error) = split /#/, $_, 4;

		$row{$name}[$n] = $row;
		$error{$name} = $error if $n == 2;
	}
	return;
}

# good(NAME, N, MESSAGE) - test that a row, when last looked at, had its answer
# from the first attempt
sub good
{
	my ($name, $n, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($row{$name}[$n], "done|model|-|1|0|$name row $n", $message);
	return;
}

# sends(NAME, REQUESTS...) - how often each of the three prompts was sent
sub sends
{
	my ($name, @requests) = @_;

	return join ' ', map {
		my $n = $_;
		scalar grep { $_->{prompt} =~ /^\Q$name\E row $n\b/ } @requests
	} 1 .. 3;
}

# Faults of a row: an attempt is charged, at most two are made, and the rows
# around it do not notice.
#
# [ name, fault, class, requests, error, other arguments ]; the class is that
# of the last attempt, undef if the row has its answer in the end
my $long = "timeout => '20 s'";
my $short = "timeout => '1 s'";
my $json = "output => '{\"label\": \"\$.label\"}', $long";
my @cases = (
	[ 'reset mid body', 'reset_mid', 'connect', 2, qr/./, $long ],
	[ 'reset', 'reset', 'connect', 4, qr/./, $long ],
	[ 'slow drip', 'drip', 'timeout', 2, qr/in time/, $short ],
	[ 'stall', 'hold', 'timeout', 2, qr/in time/, $short ],
	[ 'stall mid body', 'stall_body', 'timeout', 2, qr/in time/, $short ],
	[ 'loads again', 'load:5s once', undef, 2, undef, $short ],
	[ 'short body', 'short', 'connect', 2, qr/./, $long ],
	[ 'wrong type', 'wrong_type', 'bad_output', 2, qr{"text/plain}, $long ],
	[ 'html', 'html502', 'http_5xx', 2, qr/HTTP status 502$/, $long ],
	[ '500 once', '500 once', undef, 2, undef, $long ],
	[ '500 always', '500', 'http_5xx', 2, qr/500: model runner/, $long ],
	[ 'blamed', '400', 'http_4xx', 1, qr/context length.*num_ctx/, $long ],
	[ 'redirect', 'redirect', 'http_4xx', 1, qr/redirects/, $long ],
	[ 'redirect to http', 'redirect:http://127.0.0.1:1/', 'http_4xx', 1,
		qr/redirects/, $long ],
	[ 'not done', 'not_done', 'incomplete', 2, qr/before the model was done/, $long ],
	[ 'length', 'length', 'truncated', 2, qr/num_predict/, $long ],
	[ 'empty', 'empty', 'bad_output', 2, qr/empty/, $long ],
	[ 'nul', 'nul', 'bad_encoding', 2, qr/./, $long ],
	[ 'raw nul', 'raw_nul', 'bad_encoding', 2, qr/./, $long ],
	[ 'bad utf8', 'bad_utf8', 'bad_encoding', 2, qr/./, $long ],
	[ 'surrogate', 'surrogate', 'bad_encoding', 2, qr/./, $long ],
	[ 'two objects', 'two_objects', 'bad_output', 2, qr/./, $long ],
	[ 'trailing', 'trailing', 'bad_output', 2, qr/./, $long ],
	[ 'array', 'array', 'bad_output', 2, qr/./, $long ],
	[ 'not object', 'not_object', 'bad_output', 2, qr/./, $long ],
	[ 'huge', 'huge', 'too_large', 1, qr/llm_max_response/, $long ],
	[ 'deep', 'deep', 'bad_output', 2, qr/./, $long ],
	[ 'error under 200', 'stream_error', 'incomplete', 2, qr/model runner/, $long ],
	[ 'stale', 'stale', undef, 2, undef, $long ],
	[ 'closed after', 'close_after', undef, 1, undef, $long ],
	[ 'no length', 'no_length', undef, 1, undef, $long ],
	[ 'http 1.0', 'http10', undef, 1, undef, $long ],
	[ 'chunked', 'chunked', undef, 1, undef, $long ],
	[ 'bad schema', 'bad_schema', 'bad_output', 2, qr/does not fit/, $json ],
	[ 'not json', 'not_json', 'bad_output', 2, qr/./, $json ],
	[ 'missing key', 'missing_key', 'bad_output', 2, qr/./, $json ],
	[ 'one attempt', '500', 'http_5xx', 1, qr/500/, "max_attempts => 1" ],
	[ 'three attempts', '500', 'http_5xx', 3, qr/500/, "max_attempts => 3" ],
	[ 'fallback 500', '500', 'http_5xx', 2, qr/500/, "fallback => 'instead'" ],
	[ 'fallback late', 'hold', 'timeout', 2, qr/in time/,
		"fallback => 'instead', $short" ],
	[ 'fallback huge', 'huge', 'too_large', 1, qr/./, "fallback => 'instead'" ],
	[ 'fallback length', 'length', 'truncated', 2, qr/./,
		"fallback => 'instead'" ]);

# Attempts, where there are fewer than requests: a kept connection that ends
# before any byte of an answer is not distinguished from one that had ended
# before, so the request is sent once more.
my %attempts_of = ('reset' => 2, 'stale' => 1);

# check_case(CASE, REQUESTS...) - test what has become of its rows
sub check_case
{
	my ($case, @requests) = @_;
	my ($name, $fault, $class, $nrequests, $error, $args) = @$case;
	my $attempts = $attempts_of{$name} // $nrequests;
	my $expected = 'failed|' . ($class // '') . "|$attempts|$attempts|untouched";

	$expected = "fallback|fallback|$class|$attempts|$attempts|instead"
	  if $name =~ /^fallback/;
	$expected = "done|model|-|$attempts|" . ($attempts - 1) . "|$name row 2"
	  unless defined $class;
	is($row{$name}[2], $expected, "$name: its row");
	is(sends($name, @requests), "1 $nrequests 1", "$name: requests");
	like($error{$name}, $error, "$name: the error") if defined $error;
	if ($args =~ /\$\.label/)
	{
		is($row{$name}[$_], 'done|model|-|1|0|label', "$name: row $_")
		  foreach 1, 3;
		return;
	}
	good($name, $_, "$name: row $_") foreach 1, 3;
	return;
}

my $ollama = SabotOllama->new(port => $ENV{SABOT_TEST_PORT} // 0);
my $url = $ollama->url;
sql($node, "ALTER SYSTEM SET sabot.llm_model = 'stand-in'");
sql($node, 'SELECT pg_reload_conf()');
poll($node, 'SHOW sabot.llm_model', 'stand-in', 'there is a model');
sql($node, "SELECT sabot.add_llm_endpoint('default', '$url')");

# Where nothing fails there is one connection.

my $job = submit_case('good', '');
ends($node, $job, 'completed', 'a job without faults');
look('good');
good('good', $_, "without faults: row $_") foreach 1 .. 3;
my @requests = $ollama->requests;
is(sends('good', @requests), '1 1 1', 'without faults: one request each');
my %connections;
$connections{ $_->{connection} }++
  foreach grep { $_->{prompt} =~ /^good row/ } @requests;
is(scalar keys %connections, 1, 'without faults: one connection');
is( sql($node,
		"SELECT connections FROM sabot.llm_progress WHERE job_id = $job"),
	1,
	'without faults: and it is the only one that the worker has made');
# Only here: of a request that was given up a server may hear later than of
# the next one.
is($ollama->stats->{most_in_flight}, 1, 'there was one request at a time')
  or diag(join "\n",
	map { "$_->{at} $_->{connection} $_->{path} $_->{status} $_->{prompt}" }
	  @requests);

# All the faults of rows, one job each, waiting for each other.

submit_case(@$_[ 0, 1, 5 ]) foreach @cases;
poll(
	$node,
	'SELECT DISTINCT sabot.job_state(job_id) FROM case_job',
	'completed',
	'all jobs are completed');
look(map { $_->[0] } @cases);
@requests = $ollama->requests;
check_case($_, @requests) foreach @cases;

my $stats = $ollama->stats;
is($stats->{aborted_loads}, 1, 'one load was aborted, as it came in a request');
my @followed = grep { $_->{path} !~ m{^/(api|_)} } @requests;
is(scalar @followed, 0, 'no redirect was followed');

# A rejected answer is kept, beside a value that is NULL.

foreach my $case ([ 'length', qr/^length/ ],
	[ 'bad schema', qr/"label"/ ],
	[ 'not json', qr/^Sure!/ ])
{
	my ($name, $text) = @$case;

	like(
		sql($node,
			    "SELECT coalesce(value::text, '-') || response"
			  . " FROM sabot.llm_result JOIN case_job USING (job_id)"
			  . " WHERE case_job.name = '$name' AND item = 2") =~ s/^-//r,
		$text,
		"$name: what was rejected is kept");
}
is( sql($node,
		"SELECT count(*) FROM sabot.llm_result WHERE response LIKE '%runner%'"),
	0,
	'no error text is stored as an answer');

# Faults of a server, or of a model on it: no attempt is charged, and the row
# is asked again when the server is back.  Each case has a server of its own,
# so that they stand still at the same time.
#
# [ name, fault, what wait_reason says, options of the server ]
my @stops = (
	[ 's503', '503 first=2', qr/503: server busy/ ],
	[ 's429', '429:7,once', qr/429: too many requests/ ],
	[ 's401', '401 once', qr/401: unauthorized \(the endpoint has no secret\)/ ],
	[ 's403', '403 once', qr/403/ ],
	[ 's404', '404 once', qr/404: model 'stand-in' not found/ ],
	[ 'sload', 'load_fail once', qr/500: llama-server process has terminated/ ]);
my %server;

# why(NAME) - why the job of a case waits, once it does
sub why
{
	my ($name, $pattern) = @_;
	my $wanted = job_of($name);
	my $reason = '';

	wait_until(
		sub {
			$reason = job($node, $wanted, 'wait_reason');
			return $reason =~ /next probe/
			  || job($node, $wanted, 'state') eq 'completed';
		});
	return $reason;
}

# stopped(NAME, PATTERN) - test that the job of a case waits, and why
sub stopped
{
	my ($name, $pattern) = @_;
	my $reason = why($name);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	like($reason, qr/^endpoint "\Q$name\E" .*, next probe in \d+ s$/,
		"$name: the job waits for its server");
	like($reason, $pattern, "$name: the reason");
	return $reason;
}

foreach my $case (@stops)
{
	my ($name, $fault, $reason) = @$case;

	$server{$name} = SabotOllama->new(
		model => [ 'stand-in', 'other,load=10ms' ],
		max_loaded => 2);
	sql($node,
		"SELECT sabot.add_llm_endpoint('$name', '" . $server{$name}->url . "')");
}
my %reason;
foreach my $case (@stops)
{
	my ($name, $fault) = @$case;

	submit_case($name, $fault, "endpoint => '$name'");
}
$reason{ $_->[0] } = stopped($_->[0], $_->[2]) foreach @stops;
my ($wait) = ($reason{s429} // '') =~ /probe in (\d+) s/;
cmp_ok($wait // 0, '<=', 7, 's429: Retry-After is honoured');
cmp_ok($wait // 0, '>', 0, 's429: and counted down');

# A model that is missing is no fault of the others.

foreach my $name ('s404', 'sload')
{
	ends($node,
		submit_case("$name other", '', "endpoint => '$name', model => 'other'"),
		'completed', "$name: another model goes on");
}

# Servers that cannot be reached at all.

$server{refused} = SabotOllama->new;
$server{refused}->stop('KILL');
sql($node, "SET client_min_messages = error;"
	  . " SELECT sabot.add_llm_endpoint('refused', '"
	  . $server{refused}->url
	  . "'), sabot.add_llm_endpoint('dns', 'http://no-such-host.invalid:1')");
submit_case($_, '', "endpoint => '$_'") foreach 'refused', 'dns';
stopped('refused', qr/connect/i);
stopped('dns', qr/resolve/i);
$server{refused}->start;

# The admin names another server: the job goes there, and does not wait for
# the old one.

sql($node, "SELECT sabot.add_llm_endpoint('dns', '$url')");
ends($node, job_of('dns'), 'completed', 'dns: goes on when its URL was changed');

foreach my $case (@stops)
{
	my ($name) = @$case;

	ends($node, job_of($name), 'completed', "$name: goes on by itself");
	look($name);
	good($name, $_, "$name: row $_, no attempt was charged") foreach 1 .. 3;
	my $nrequests = $name eq 's503' ? 3 : 2;
	is(sends($name, $server{$name}->requests),
		"1 $nrequests 1", "$name: requests");
}

# That the server answered a probe in between does not make it a good one.

my @at = map { $_->{at} } $server{s503}->requests(qr/^s503 row 2/);
cmp_ok($at[1] - $at[0], '>', 4.9, 's503: stopped for 5 s');
cmp_ok($at[2] - $at[1], '>', 9.9, 's503: and then for longer');
foreach my $name ('refused', 'dns')
{
	ends($node, job_of($name), 'completed', "$name: goes on by itself");
	look($name);
	good($name, $_, "$name: row $_, no attempt was charged") foreach 1 .. 3;
}
is(sends('refused', $server{refused}->requests), '1 1 1', 'refused: requests');

# A server that restarts between two requests: the worker sits on the answer
# to the first row meanwhile.  If it is back in time nobody notices, if not the
# job waits for it.

my $session = user_session($node);
foreach my $name ('restart', 'restart late')
{
	my $own = SabotOllama->new;
	my $late = $name =~ /late/;

	sql($node, "SELECT sabot.add_llm_endpoint('$name', '" . $own->url . "')");
	$session->query_safe('SELECT pg_advisory_lock(1)');
	submit_case($name, '', "endpoint => '$name'");
	poll($node,
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'sabot llm'"
		  . " AND wait_event_type = 'Lock'",
		1, "$name: the worker has the first answer");
	is($own->stats->{prompts}, 1, "$name: and has asked for no other");
	$own->stop('KILL');
	$own->start unless $late;
	$session->query_safe('SELECT pg_advisory_unlock(1)');
	if ($late)
	{
		stopped($name, qr/connect/i);
		$own->start;
	}
	ends($node, job_of($name), 'completed', "$name: the job is completed");
	look($name);
	good($name, $_, "$name: row $_, no attempt was charged") foreach 1 .. 3;
	is(sends($name, $own->requests), '0 1 1', "$name: nothing is asked twice");
	$own->stop;
}
$session->quit;

# A server that goes away with a request: a reset before any byte of an answer
# has come over a kept connection is tried again at once, and then nobody is
# there.

my $gone = SabotOllama->new;
sql($node, "SELECT sabot.add_llm_endpoint('gone', '" . $gone->url . "')");
submit_case('gone', 'refused:2s once', "endpoint => 'gone'");
stopped('gone', qr/connect/i);
ends($node, job_of('gone'), 'completed', 'gone: the job is completed');
look('gone');
good('gone', $_, "gone: row $_, no attempt was charged") foreach 1 .. 3;
is(sends('gone', $gone->requests), '1 2 1', 'gone: requests');

# Loading takes longer than a request may: that is nobody's attempt.

my $slow = SabotOllama->new(load_time => '3s');
sql($node, "SELECT sabot.add_llm_endpoint('slow', '" . $slow->url . "')");
ends($node, submit_case('slow', '', "endpoint => 'slow', $short"),
	'completed', 'slow load: the job is completed');
look('slow');
good('slow', $_, "slow load: row $_") foreach 1 .. 3;
$stats = $slow->stats;
is("@$stats{qw(warmups loads aborted_loads prompts)}",
	'1 1 0 3', 'slow load: once, and apart');

# A load that takes too long stops the model.

set_conf($node, 'sabot.llm_load_timeout' => '1s');
poll($node, 'SHOW sabot.llm_load_timeout', '1s', 'a shorter limit for loads');
$slow->control({ unload => JSON::PP::true });
submit_case('slow load', '', "endpoint => 'slow', $short");
like(why('slow load'),
	qr/^endpoint "slow" model "stand-in" was not loaded within 1 s/,
	'slow load: the job waits');
set_conf($node, 'sabot.llm_load_timeout' => '300s');
ends($node, job_of('slow load'), 'completed', 'slow load: and goes on');
look('slow load');
good('slow load', $_, "slow load: row $_, no attempt was charged") foreach 1 .. 3;

is( sql($node,
		"SELECT count(*) FROM sabot.llm_result WHERE state NOT IN"
		  . " ('done', 'failed', 'fallback')"),
	0,
	'no row is left');

$node->stop;
done_testing();
