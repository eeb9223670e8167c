# LLM jobs that follow a table, while workers and the server are killed and
# rows change all the time: in the end every row has the answer to what it is,
# an answer to something else was never there when it was written, and nobody
# was asked twice but for requests that were under way.
#
# SABOT_SEED picks other changes, SABOT_FOLLOW_ROUNDS the number of kills.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use SabotOllama;
use SabotTest;
use Test::More;
use Time::HiRes 'sleep';

my $seed = $ENV{SABOT_SEED} || 27;
my $long = ($ENV{SABOT_TORTURE} || '') eq 'long';
my $rounds = $ENV{SABOT_FOLLOW_ROUNDS} || ($long ? 50 : 12);

diag("SABOT_SEED=$seed SABOT_FOLLOW_ROUNDS=$rounds");
srand($seed);

my $node = new_node('follow_crash',
	"sabot.llm_model = 'stand-in'\nsabot.max_crashes = 1000\n");
my $ollama = SabotOllama->new(service => 'uniform:1ms,20ms');

# stored tells what was written, and what the row was then.  Each change makes
# a body that there has never been: so a prompt that was sent twice is one that
# was asked twice.
sql($node, <<"SQL");
SELECT sabot.add_llm_endpoint('default', '@{[ $ollama->url ]}');
CREATE TABLE note (id int PRIMARY KEY, body text, label text);
CREATE TABLE stored (id int, body text, label text);
CREATE FUNCTION store() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO stored VALUES (NEW.id, NEW.body, NEW.label);
	RETURN NULL;
END \$\$;
CREATE TRIGGER store AFTER UPDATE OF label ON note
	FOR EACH ROW EXECUTE FUNCTION store();
CREATE SEQUENCE version;
-- change - insert or update random rows
CREATE PROCEDURE change(n int) LANGUAGE sql AS \$\$
	INSERT INTO note (id, body)
		SELECT id, 'v' || nextval('version')
		FROM (SELECT DISTINCT 1 + floor(random() * 60)::int AS id
			FROM generate_series(1, n) ORDER BY id) AS r
		ON CONFLICT (id) DO UPDATE SET body = excluded.body
\$\$;
CALL change(40);
SQL
my $job = sql($node, "SELECT sabot.submit_llm_job('TABLE note',"
	  . " '{body} [[answer:<{body}>]]', target => 'note', output => 'label',"
	  . " follow => true, timeout => '1 h')");

# kill_someone(HOW) - the worker, if there is one, or the server
sub kill_someone
{
	my ($how) = @_;
	my $pid = sql($node,
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'sabot llm' LIMIT 1");

	if ($how eq 'immediate' || ($pid eq '' && $how eq 'SIGKILL'))
	{
		$node->stop('immediate');
		$node->start;
	}
	elsif ($how eq 'SIGKILL')
	{
		kill_pid($pid);
		server_back($node, "round: the server is back");
	}
	elsif ($pid ne '')
	{
		sql($node, "SELECT pg_terminate_backend($pid)");
	}
	return;
}

my $kills = 0;
my %asked;

# count_prompts() - take note of what was asked, before it is forgotten
sub count_prompts
{
	foreach my $request ($ollama->requests)
	{
		$asked{ $request->{prompt} }++
		  if $request->{path} eq '/api/chat' && $request->{prompt} ne '';
	}
	$ollama->reset;
	return;
}

foreach my $round (1 .. $rounds)
{
	my $how = ('SIGKILL', 'terminated', 'immediate')[ $round % 3 ];

	for (1 .. 1 + int(rand(4)))
	{
		sql($node, 'CALL change(' . (1 + int(rand(30))) . ')');
		sleep(rand(0.1));
	}
	kill_someone($how);
	$kills++;
	count_prompts();
}

poll($node, <<"SQL", 'blocked|0|0|0', 'in the end the job waits');
SELECT j.state, p.pending, p.running, s.lag_rows
FROM sabot.job_status AS j JOIN sabot.llm_progress AS p USING (job_id)
	JOIN sabot.stream_status AS s USING (job_id)
WHERE j.job_id = $job
SQL
count_prompts();
is( sql($node,
		"SELECT count(*), count(*) FILTER (WHERE label = '<' || body || '>') FROM note"),
	sql($node, 'SELECT count(*), count(*) FROM note'),
	'every row has the answer to what it is');
is( sql($node,
		"SELECT count(*) FROM stored WHERE label IS DISTINCT FROM '<' || body || '>'"),
	0,
	'no other answer was ever stored');
is( sql($node,
		"SELECT count(*) FROM (SELECT FROM stored GROUP BY id, label HAVING count(*) > 1) AS s"),
	0,
	'none was stored twice');
is( sql($node,
		"SELECT total, done, (SELECT count(*) FROM note),"
		  . " (SELECT count(DISTINCT key) FROM sabot.llm_result WHERE job_id = $job)"
		  . " FROM sabot.llm_progress WHERE job_id = $job"),
	join('|', (sql($node, 'SELECT count(*) FROM note')) x 4),
	'one item for each row, and each is counted');
my $again = 0;
$again += $_ - 1 foreach values %asked;
cmp_ok($again, '<=', $kills, "at most one request again for each kill");
note("kills: $kills, prompts: " . keys(%asked) . ", asked again: $again, versions: "
	  . sql($node, 'SELECT last_value FROM version'));

done_testing();
