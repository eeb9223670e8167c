# Queries over warm agents answer as they do without: many queries, each run
# without parallelism, with PostgreSQL's own parallel query, and distributed,
# under settings that lead to different plans; and what they print compared.
#
# The queries are in test/route; test/lib/route_generator makes up more.
# SABOT_SEED has it make up others, SABOT_QUERIES so many.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Utils;
use SabotTest;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{SABOT_SEED} || 20240229;
my $ngenerated = $ENV{SABOT_QUERIES} || 150;
my $begun = time();

diag("SABOT_SEED=$seed SABOT_QUERIES=$ngenerated");

my $node = new_node('corpus', <<'CONF');
max_parallel_workers = 8
jit = off
log_statement = none
log_min_error_statement = panic
CONF
my $psql = $node->installed_command('psql');
my $admin = sql($node, 'SELECT current_user');

$node->command_ok(
	[ 'psql', '-X', '-q', '-f', 'test/route/schema.sql', 'postgres' ],
	'the tables are made');
cmp_ok(
	sql($node,
		'SELECT count(*) FROM pg_class WHERE relnamespace = '
		  . "'corpus'::regnamespace AND relkind IN ('r', 'p', 'm')"
		  . ' AND NOT relispartition'),
	'>=', 20, 'there are enough of them');
sql($node, "SELECT sabot.grant_usage('corpus')");

# What is asked

# parse(TEXT, FILE) - the queries in it: name, sql, file, and whether their
# rows have an order
sub parse
{
	my ($text, $file) = @_;
	my @queries;

	foreach my $paragraph (split /\n\n+/, $text)
	{
		my ($label, $sql) = $paragraph =~ /^-- ([\w ]+: .*?)\n(?!--)(.*)/s
		  or next;

		push @queries,
		  {
			file => $file,
			name => $label,
			sql => $sql,
			unordered => scalar($label =~ /\(unordered\)$/)
		  };
	}
	return @queries;
}

my @queries = map { parse(slurp_file($_), $_) } sort glob 'test/route/*_*.sql';
cmp_ok(scalar @queries, '>=', 300, 'there are many queries');
my %names = map { $_->{name} => 1 } @queries;
is(scalar keys %names, scalar @queries, 'each has its own name');

my ($generated) = run_command(
	[ $^X, 'test/lib/route_generator', $seed, $ngenerated ]);
my @generated = parse("$generated\n", 'generated');
is(scalar @generated, $ngenerated, 'others are made up');

# Those that leave everything as it is may run in several sessions at once.
my @readers = grep { $_->{file} =~ /(?:[1-7]0_\w+\.sql|generated)$/ } @queries, @generated;

# How it is asked

my @forced = (
	'parallel_setup_cost=0', 'parallel_tuple_cost=0',
	'min_parallel_table_scan_size=0', 'min_parallel_index_scan_size=0');
my %mode = (
	local => [ 'sabot.execution=local', 'max_parallel_workers_per_gather=0' ],
	stock => [ 'sabot.execution=local', @forced ],
	distributed => [ 'sabot.execution=distributed', @forced ],
	# As users have it: what is worth while is for sabot to say.
	plain => ['sabot.execution=distributed'],
	auto => [ 'sabot.execution=auto', 'sabot.distribute_threshold=5000' ]);

# settings_of(ROUND) - the settings of a round
sub settings_of
{
	my ($round) = @_;

	return (
		'search_path=corpus',
		@{ $mode{ $round->{mode} } },
		@{ $round->{with} || [] });
}

# title(ROUND) - what to call it
sub title
{
	my ($round) = @_;

	return join ' ', $round->{mode}, "as $round->{role}", @{ $round->{with} || [] };
}

# start_session(ROUND, QUERIES) - a psql that runs them; finish_session() waits
# for it, and returns the answers, by name
#
# The settings come with the connection, so that RESET leads back to them.
my $nsessions = 0;
sub start_session
{
	my ($round, @asked) = @_;
	my $name = $node->basedir . '/session_' . ++$nsessions;
	my $session = { out => "$name.out", err => "$name.err", asked => \@asked };
	append_to_file("$name.sql", script(@asked));
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_" } settings_of($round);

	$session->{run} = IPC::Run::start(
		[
			$psql, '-X', '-q', '-A', '-P', 'null=<NULL>',
			'-v', 'VERBOSITY=verbose', '-U', $round->{role},
			'-d', $node->connstr('postgres')
		],
		'<', "$name.sql",
		'>', $session->{out},
		'2>', $session->{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $session;
}

sub finish_session
{
	my ($session) = @_;

	my $ended = eval { $session->{run}->finish; 1 };
	my $why = $@;
	my ($out, $err) = map { slurp_file($session->{$_}) } qw(out err);
	return answers($out, $err, @{ $session->{asked} }) if $ended;
	my ($last) = $out =~ /.*^\@\@ (\d+)$/ms;
	diag('the server does: '
		  . (try_sql($node,
				'SELECT pid, backend_type, state, wait_event, query'
				  . ' FROM pg_stat_activity'))[1]);
	$session->{run}->kill_kill;
	die "a session does not end: $why\nit is at: $session->{asked}[$last - 1]{sql}";
}

# errors_of(TEXT) - what matters in psql's messages: not where in the source
# they come from, nor the context, which names workers
sub errors_of
{
	my ($text) = @_;
	my @kept;
	my $keep = 1;

	foreach my $line (split /\n/, $text)
	{
		$keep = $line !~ /^(?:CONTEXT|LOCATION):/
		  if $line =~ /^[A-Z]+: |^psql: |^server |^connection |^LINE \d/;
		push @kept, $line if $keep;
	}
	return join "\n", sort @kept;
}

# answers(OUTPUT, ERRORS, QUERIES) - what they printed, by name
sub answers
{
	my ($out, $err, @asked) = @_;
	my @out = split /^\@\@ .*\n/m, $out;
	my @err = split /^\@\@ .*\n/m, $err;
	my %answer;

	foreach my $i (0 .. $#asked)
	{
		my $query = $asked[$i];
		my $rows = $out[ $i + 1 ] // '(no answer)';

		$rows = join "\n", sort split /\n/, $rows if $query->{unordered};
		$answer{ $query->{name} } = "$rows\n" . errors_of($err[ $i + 1 ] // '');
	}
	return \%answer;
}

# script(QUERIES) - them with marks between, on both of psql's outputs
sub script
{
	my $n = 0;

	return join '',
	  map { $n++; "\\echo @@ $n\n\\warn @@ $n\n$_->{sql}\n" } @_;
}

# ask(ROUND, QUERIES) - the answers, by name
sub ask
{
	my ($round, @asked) = @_;
	return finish_session(start_session($round, @asked));
}

# first_difference(GOT, WANTED) - the lines around it
sub first_difference
{
	my @got = split /\n/, $_[0];
	my @wanted = split /\n/, $_[1];
	my $i = 0;

	$i++ while ($got[$i] // '') eq ($wanted[$i] // '')
	  && $i < @got + @wanted;
	my $end = $i + 4;
	return sprintf "line %d of %d, wanted %d lines\n%s\n%s", $i + 1,
	  scalar @got, scalar @wanted,
	  join("\n", map { "got:    $_" } grep { defined } @got[ $i .. $end ]),
	  join("\n", map { "wanted: $_" } grep { defined } @wanted[ $i .. $end ]);
}

my %reference;
my $nruns = 0;

# compare(ROUND, ANSWERS, QUERIES) - test that they are those of the reference
sub compare
{
	my ($round, $answer, @asked) = @_;
	my $reference = $reference{ $round->{role} };
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @differ =
	  grep { $answer->{ $_->{name} } ne $reference->{ $_->{name} } } @asked;

	$nruns += @asked;
	return ok(1, title($round) . ': as without parallelism') unless @differ;
	my $first = $differ[0];
	ok(0, title($round) . ': as without parallelism');
	diag(
		scalar(@differ), ' differ: ',
		join(', ', map { "\"$_->{name}\"" } @differ[ 0 .. ($#differ > 9 ? 9 : $#differ) ]),
		"\n$first->{file}: $first->{name}\n$first->{sql}\nsettings: ",
		join(' ', settings_of($round)), "\n",
		first_difference(
			$answer->{ $first->{name} },
			$reference->{ $first->{name} }));
	return;
}

# The agents

# warm(ROLE, N) - have so many agents of that role, and of no other
sub warm
{
	my ($role, $n) = @_;

	sql($node, 'SELECT sabot.stop_agents()', user => $_)
	  foreach $admin, 'corpus';
	poll($node, 'SELECT count(*) FROM sabot.agent_status', '0', 'agents leave');
	sql($node, "SELECT sabot.start_agents($n)", user => $role);
	return poll($node,
		'SELECT count(*) FROM sabot.agent_status'
		  . " WHERE role = '$role' AND state = 'idle'",
		$n, "$n agents of $role");
}

# distributed() - queries that were, by the server's own count
sub distributed
{
	my ($status, $n) = try_sql($node,
		'SELECT coalesce(sum(queries), 0) FROM sabot.route_stat'
		  . " WHERE route = 'distributed' AND database = 'postgres'");

	return $status == 0 ? $n : 0;
}

# served() - in how many queries the agents that are there took part
sub served
{
	return sql($node,
		'SELECT coalesce(sum(queries_done), 0) FROM sabot.agent_status');
}

# The truth, as each of the roles sees it

foreach my $role ('corpus', $admin)
{
	my $round = { mode => 'local', role => $role };

	$reference{$role} = ask($round, @queries, @generated);
	compare($round, ask($round, @queries, @generated), @queries, @generated)
	  if $role eq 'corpus';
}
unlike($reference{corpus}{$_->{name}}, qr/^ERROR:/m, "$_->{name} is without error")
  foreach grep { $reference{corpus}{$_->{name}} =~ /^ERROR:/m } @generated;
my @failing = grep { $reference{corpus}{ $_->{name} } =~ /^ERROR:/m } @queries;
is( scalar(grep { $_->{name} !~ /^(?:error|role: no privilege|role: privilege for columns|rls: row_security off|changed: a policy|function: volatile seq|notice: and then|authorization: another)/ } @failing),
	0,
	'there are no other errors than those on purpose')
  or diag(join "\n", map { "$_->{name}: " . ($reference{corpus}{ $_->{name} } =~ /^(ERROR:.*)/m)[0] } @failing);

# What parallel plans there are.  EXPLAIN does not look into functions.

my (%has_gather, %nodes);

# look_at_plans(ROUND) - note which queries have a Gather then, and all plan nodes
sub look_at_plans
{
	my ($round) = @_;
	my @explained = map {
		my $sql = $_->{sql};
		$sql =~ s/^(?=(?:SELECT|WITH|VALUES|TABLE|EXECUTE)\b)/EXPLAIN (COSTS OFF) /mg;
		+{ %$_, sql => $sql, unordered => 0 };
	} @queries, @generated;
	my $plans = ask($round, @explained);

	while (my ($name, $plan) = each %$plans)
	{
		$has_gather{$name} = 1 if $plan =~ /^ *(?:->  )?Gather/m;
		$nodes{$1}++ while $plan =~ /(?:^|->  )((?:[A-Z][A-Za-z]+ ?)+?)(?: using | on |$)/mg;
	}
	return;
}

my $plain = { mode => 'stock', role => 'corpus', with => ['max_parallel_workers_per_gather=2'] };
look_at_plans($plain);
my $ngather = keys %has_gather;
look_at_plans({ %$plain, with => [ @{ $plain->{with} }, @$_ ] })
  foreach [ 'enable_hashjoin=off', 'work_mem=64kB' ], ['enable_mergejoin=off', 'enable_hashjoin=off'];
diag("$ngather of ", @queries + @generated, ' have a Gather');
cmp_ok($ngather, '>', 0.7 * (@queries + @generated), 'most have a Gather');
ok($nodes{$_}, "some plan has a node $_")
  foreach 'Gather', 'Gather Merge', 'Parallel Append',
  'Parallel Hash', 'Parallel Hash Join', 'Merge Join', 'Nested Loop', 'Parallel Seq Scan',
  'Parallel Index Scan', 'Parallel Index Only Scan', 'Parallel Bitmap Heap Scan',
  'Finalize Aggregate', 'Partial HashAggregate', 'Partial GroupAggregate',
  'Incremental Sort', 'Memoize', 'WindowAgg';
note(join ', ', map { "$_: $nodes{$_}" } sort keys %nodes);

# The rounds, each of all queries and a third of those made up.  What "agents"
# says are there when it begins; "sample" takes one in so many of the queries.
# The last queries of the files spoil their session for agents.

my $forced_jit = 'jit_above_cost=0';
my @no_optimizing = ('jit_optimize_above_cost=-1', 'jit_inline_above_cost=-1');
my @rounds = (
	{ mode => 'stock', with => ['max_parallel_workers_per_gather=2'] },
	{ mode => 'stock', with => [ 'max_parallel_workers_per_gather=4', 'parallel_leader_participation=off', 'work_mem=64kB', 'enable_hashjoin=off' ] },
	{ mode => 'stock', sample => 12, with => [ 'jit=on', $forced_jit, @no_optimizing ] },
	{ mode => 'plain', agents => 4 },
	{ mode => 'auto', agents => 4 },
	{ mode => 'distributed', agents => 4, with => ['sabot.query_agents=1'] },
	{ mode => 'distributed', agents => 4, with => ['sabot.query_agents=2'] },
	{ mode => 'distributed', agents => 4, with => [ 'sabot.query_agents=4', 'max_parallel_workers_per_gather=4' ] },
	{ mode => 'distributed', agents => 4, with => [ 'sabot.query_agents=2', 'parallel_leader_participation=off' ] },
	{ mode => 'distributed', agents => 4, with => [ 'sabot.query_agents=2', 'work_mem=64kB', 'hash_mem_multiplier=1' ] },
	{ mode => 'distributed', agents => 4, with => [ 'sabot.query_agents=2', 'enable_hashjoin=off', 'enable_hashagg=off' ] },
	{ mode => 'distributed', agents => 4, with => [ 'sabot.query_agents=2', 'enable_hashjoin=off', 'enable_mergejoin=off' ] },
	{ mode => 'distributed', agents => 4, with => [ 'sabot.query_agents=4', 'max_parallel_workers_per_gather=4', 'enable_nestloop=off', 'enable_mergejoin=off', 'enable_parallel_hash=off' ] },
	{ mode => 'distributed', agents => 4, with => [ 'sabot.query_agents=2', 'enable_partitionwise_join=on', 'enable_partitionwise_aggregate=on', 'enable_sort=off' ] },
	{ mode => 'distributed', agents => 4, sample => 8, with => [ 'sabot.query_agents=2', 'jit=on', $forced_jit, @no_optimizing ] },
	{ mode => 'distributed', agents => 1, with => [ 'sabot.query_agents=4', 'max_parallel_workers_per_gather=4' ] },
	{ mode => 'distributed', agents => 4, role => $admin, with => ['sabot.query_agents=2'] },
	{ mode => 'distributed', agents => 4, role => $admin, with => [ 'sabot.query_agents=4', 'max_parallel_workers_per_gather=4', 'parallel_leader_participation=off', 'enable_indexscan=off' ] },
	{ mode => 'stock', role => $admin, with => ['enable_indexscan=off'] });
my ($ndistributed, $nserved, $nrounds) = (0, 0, 0);
my ($warm, $turn) = ('', 0);

foreach my $round (@rounds)
{
	my $n = $turn++;
	my @asked = ((grep { $n++ % 3 == 0 } @generated), @queries);

	$round->{role} ||= 'corpus';
	@asked = grep { $n++ % $round->{sample} == 0 } @asked if $round->{sample};
	my $pool = join ' ', $round->{role}, $round->{agents} // 0;
	warm($round->{role}, $round->{agents}) if $round->{agents} && $pool ne $warm;
	$warm = $pool if $round->{agents};

	my ($before, $served) = (distributed(), served());
	my $from = time();
	my $answers = ask($round, @asked);
	compare($round, $answers, @asked);
	my $took = time() - $from;
	my ($more, $now) = (distributed() - $before, served() - $served);

	diag(sprintf '%s: %.1f s, %d distributed, %d on agents', title($round), $took, $more, $now);
	is($more, 0, title($round) . ': nothing is distributed') if $round->{mode} =~ /local|stock/;
	next unless $round->{mode} eq 'distributed';
	$ndistributed += $more;
	$nserved += $now;
	$nrounds += @asked / (@queries + @generated);
}
cmp_ok($ndistributed, '>', 0.7 * $ngather * $nrounds,
	'what has a Gather was distributed, for the most part');
cmp_ok($nserved, '>', 0.5 * $ngather * $nrounds, 'and agents took part');

# More leaders than agents

my $crowd = { mode => 'distributed', role => 'corpus', with => ['sabot.query_agents=2'] };
warm('corpus', 3);
my @sessions;
my $served = served();
foreach my $i (0 .. 3)
{
	my $from = int($i * @readers / 4);
	my @asked = (@readers[ $from .. $#readers ], @readers[ 0 .. $from - 1 ]);

	push @sessions, start_session($crowd, @asked);
}
foreach my $session (@sessions)
{
	compare($crowd, finish_session($session), @{ $session->{asked} });
}
cmp_ok(served() - $served, '>', @readers, 'with four sessions at once: agents took part');

# Nothing is left of all this.

poll($node, "SELECT count(*) FROM sabot.agent_status WHERE state <> 'idle'",
	'0', 'all agents are idle again');
is(sql($node, 'SELECT losses FROM sabot.pool_status'), '0', 'no agent was lost');
my $log = slurp_file($node->logfile);
unlike($log, qr/leak|TRAP|terminated by signal|PANIC/, 'the log has no complaint');
diag(sprintf '%d queries, %d generated, %d runs, %.0f s', scalar @queries,
	scalar @generated, $nruns, time() - $begun);

$node->stop;
done_testing();
