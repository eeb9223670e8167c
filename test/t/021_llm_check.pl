# What check_llm() says of servers that refuse, have too much to do, or speak
# TLS in a way that is not to be trusted; and that it is the first thing wrong
# that it names.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;

my $node = new_node('check', "sabot.llm_model = 'stand-in'\n");
my $ollama = SabotOllama->new;
my $url = $ollama->url;
sql($node, "SELECT sabot.add_llm_endpoint('default', '$url'),"
	  . " sabot.add_llm_endpoint('token', '$url', secret => 'tellnobody')");

# last_row(ENDPOINT) - the last row: the subject, whether that is well, what
# there is to say and what to do
sub last_row
{
	my ($endpoint) = @_;

	return (split /\n/,
		sql($node,
			"SELECT concat_ws('|', subject, ok, detail, advice)"
			  . " FROM sabot.check_llm('$endpoint')"))[-1];
}

like(last_row('default'), qr/^state\|t\|0 requests open/, 'all is well');

# [ fault, endpoint, the row ]
foreach my $case (
	[ '403:route=*', 'default', qr/^server\|f\|HTTP status 403.*\|Ollama refuses host names/ ],
	[ '403:route=*', 'token', qr/^server\|f\|HTTP status 403.*\|The secret does not permit/ ],
	[ '401:route=*', 'default', qr/^server\|f\|HTTP status 401.*\|The server wants a token/ ],
	[ '401:route=*', 'token', qr/^server\|f\|HTTP status 401.*\|The server does not accept/ ],
	[ '503:route=*', 'default', qr/^server\|f\|HTTP status 503.*\|The server has too much/ ],
	[ '429:route=*', 'default', qr/^server\|f\|HTTP status 429.*\|The server has too much/ ],
	[ '503:route=/api/tags', 'default', qr/^model\|f\|.*HTTP status 503.*too much/ ],
	[ '503', 'default', qr/^load\|f\|HTTP status 503.*\|The server has too much/ ],
	[ '403:match=Reply', 'token', qr/^answer\|f\|http_4xx: HTTP status 403.*does not permit/ ],
	[ 'load_fail', 'default', qr/^load\|f\|HTTP status 500.*\|See the server's own log/ ])
{
	my ($fault, $endpoint, $row) = @$case;

	$ollama->faults($fault);
	like(last_row($endpoint), $row, "$fault, $endpoint");
}
$ollama->faults;
like(last_row('default'), qr/^state\|t/, 'nothing of that was held against it');
unlike(slurp_file($node->logfile), qr/tellnobody/, 'the secret is not in the log');

# TLS

(my $tls = $url) =~ s/^http:/https:/;
sql($node, "SELECT sabot.add_llm_endpoint('no tls', '$tls')");
like(last_row('no tls'), qr{^server\|f\|.*begins with http://}, 'no TLS there');

SKIP:
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my @make = ('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes',
		'-days', '2', '-subj', '/CN=localhost',
		'-addext', 'subjectAltName=IP:127.0.0.1',
		'-keyout', "$dir/key.pem", '-out', "$dir/cert.pem");

	skip 'there is no openssl', 2
	  unless IPC::Run::run(\@make, '<', '/dev/null', '>&', "$dir/openssl.log");

	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $server = IPC::Run::start(
		[ 'openssl', 's_server', '-accept', "127.0.0.1:$port", '-www',
			'-key', "$dir/key.pem", '-cert', "$dir/cert.pem" ],
		'<', '/dev/null', '>&', "$dir/server.log");

	ok(wait_until(sub { slurp_file("$dir/server.log") =~ /ACCEPT/ }),
		'a server with a certificate of its own making');
	sql($node, "SELECT sabot.add_llm_endpoint('own', 'https://127.0.0.1:$port')");
	like(last_row('own'), qr/^server\|f\|.*certificates that this machine trusts/,
		'its certificate is not trusted');
	$server->kill_kill;
}

$node->stop;
done_testing();
