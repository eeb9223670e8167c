# What the TAP tests share: servers with sabot preloaded, and jobs to watch.
#
# Nothing here sleeps for a fixed time: every wait is a loop that ends when
# what it waits for has come, and fails the test when it has not come within
# PG_TEST_TIMEOUT_DEFAULT seconds (180).
package SabotTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  new_node user_session
  sql sql_fails try_sql set_conf
  submit job poll wait_until ends
  attempts agent_of running alive kill_pid server_back log_since
);

# new_node(NAME, SETTINGS, no_start => 1, init => [...]) - a new server
#
# It has test/sabot.conf and SETTINGS, and the extension in database postgres.
# A server that loses a process starts again, as they do outside of tests.
sub new_node
{
	my ($name, $settings, %params) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(@{ $params{init} || [] });
	$node->append_conf('postgresql.conf', slurp_file('test/sabot.conf'));
	$node->append_conf('postgresql.conf',
		"restart_after_crash = on\nautovacuum = off\n" . ($settings // ''));
	return $node if $params{no_start};
	$node->start;
	sql($node, 'CREATE EXTENSION sabot');
	return $node;
}

# psql's options for the role and other parameters named
sub _psql_params
{
	my (%params) = @_;
	my @extra = ('-v', 'VERBOSITY=verbose');

	push @extra, '-U', $params{user} if defined $params{user};
	return (extra_params => \@extra);
}

# sql(NODE, SQL, db => , user => ) - what the SQL returns; dies on an error
sub sql
{
	my ($node, $sql, %params) = @_;

	return $node->safe_psql($params{db} // 'postgres', $sql,
		_psql_params(%params));
}

# try_sql(NODE, SQL, ...) - (exit status, output, errors), whatever happens
#
# A psql that cannot connect may be gone before it is given the SQL: a broken
# pipe then, which is no different.
sub try_sql
{
	my ($node, $sql, %params) = @_;
	my @result = eval {
		$node->psql(
			$params{db} // 'postgres', $sql,
			timeout => $PostgreSQL::Test::Utils::timeout_default,
			_psql_params(%params));
	};

	return @result ? @result : (2, '', $@);
}

# sql_fails(NODE, SQL, ERROR, MESSAGE, ...) - test that it does, and how;
# errors are printed as "ERROR:  SQLSTATE: message"
sub sql_fails
{
	my ($node, $sql, $error, $message, %params) = @_;
	my ($status, $out, $err) = try_sql($node, $sql, %params);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	isnt($status, 0, "$message: is an error");
	like($err, $error, "$message: which one");
	return;
}

# user_session(NODE, ...) - a psql that stays and goes on after errors
sub user_session
{
	my ($node, %params) = @_;

	return $node->background_psql($params{db} // 'postgres',
		on_error_stop => 0,
		_psql_params(%params));
}

# set_conf(NODE, NAME => VALUE, ...) - change settings that need a reload
sub set_conf
{
	my ($node, %settings) = @_;

	$node->append_conf('postgresql.conf', "$_ = '$settings{$_}'")
	  foreach sort keys %settings;
	$node->reload;
	return;
}

# submit(NODE, COMMAND, args => "max_attempts => 3", ...) - the new job's id
sub submit
{
	my ($node, $command, %params) = @_;
	my $args = defined $params{args} ? ", $params{args}" : '';

	return sql($node, "SELECT sabot.submit_job(\$job\$$command\$job\$$args)",
		%params);
}

# job(NODE, JOB, COLUMNS, ...) - columns of its job_status, separated by |
sub job
{
	my ($node, $job, $columns, %params) = @_;

	return sql($node,
		"SELECT $columns FROM sabot.job_status WHERE job_id = $job", %params);
}

# wait_until(CODE) - call it until it returns something true, which is
# returned; nothing if that takes too long
sub wait_until
{
	my ($code) = @_;
	my $end = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (time() < $end)
	{
		my $result = $code->();

		return $result if $result;
		sleep(0.02);
	}
	return;
}

# poll(NODE, QUERY, EXPECTED, MESSAGE, ...) - test that a query comes to
# return something; a server that is down has not returned it yet
sub poll
{
	my ($node, $query, $expected, $message, %params) = @_;
	my $last = '';
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $found = wait_until(
		sub {
			my ($status, $out, $err) = try_sql($node, $query, %params);

			$last = $out . $err;
			return $status == 0 && $out eq $expected;
		});
	ok($found, $message)
	  or diag("wanted \"$expected\" of: $query\nlast had: $last");
	return $found;
}

# ends(NODE, JOB, STATE, MESSAGE, ...) - test how a job ends
sub ends
{
	my ($node, $job, $state, $message, %params) = @_;
	my $row = '';
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_until(
		sub {
			my ($status, $out) = try_sql($node,
				"SELECT state, finished_at IS NOT NULL, attempt, losses, pid,"
				  . " sqlstate, error, wait_reason FROM sabot.job_status"
				  . " WHERE job_id = $job",
				%params);

			$row = $out if $status == 0 && $out ne '';
			return $row =~ /^\w+\|t\|/;
		});
	my ($found) = $row =~ /^(\w+)/;
	is($found, $state, $message) or diag("job $job: $row");
	return defined $found && $found eq $state;
}

# running(NODE, JOB, ...) - wait until an agent runs the job; its pid
#
# The job is then in the middle of its command, if that has begun to sleep or
# to wait for a lock: a job is shown as running a little earlier.
sub running
{
	my ($node, $job, %params) = @_;

	my $pid = wait_until(
		sub {
			my ($status, $out) = try_sql($node,
				    "SELECT pid FROM pg_stat_activity"
				  . " WHERE application_name = 'sabot job $job'"
				  . " AND backend_type = 'sabot agent' AND state = 'active'"
				  . " AND (wait_event = 'PgSleep' OR wait_event_type = 'Lock')",
				%params);

			return $status == 0 && $out;
		});
	die "job $job does not run: " . job($node, $job, '*', %params)
	  unless $pid;
	return $pid;
}

# attempts(NODE, JOB) - its earlier attempts: number and SQLSTATE
sub attempts
{
	my ($node, $job) = @_;

	return sql($node,
		"SELECT string_agg(attempt || ' ' || sqlstate, ', ' ORDER BY attempt)"
		  . " FROM sabot.job_attempt WHERE job_id = $job");
}

# agent_of(NODE, ROLE, ...) - the pids of the role's agents, separated by
# blanks, in the order of their slots
sub agent_of
{
	my ($node, $role, %params) = @_;
	my $where = defined $params{of_db} ? " AND database = '$params{of_db}'" : '';

	return sql($node,
		"SELECT string_agg(pid::text, ' ' ORDER BY slot)"
		  . " FROM sabot.agent_status WHERE role = '$role'$where",
		%params);
}

# alive(PID) - whether there is such a process
sub alive
{
	my ($pid) = @_;

	return kill(0, $pid) == 1;
}

# kill_pid(PID) - SIGKILL; waits until it is gone
sub kill_pid
{
	my ($pid) = @_;

	kill('KILL', $pid) == 1 or die "could not kill process $pid: $!";
	wait_until(sub { !alive($pid) }) or die "process $pid does not die";
	return;
}

# server_back(NODE, MESSAGE) - test that a server that lost a process is up
# again
#
# To be called when that process has gone: from then on nobody can connect
# until the server has started again.
sub server_back
{
	my ($node, $message) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll($node,
		'SELECT launcher_running FROM sabot.pool_counters()',
		't', $message);
}

# log_since(NODE, OFFSET) - what the server has logged from there on
sub log_since
{
	my ($node, $offset) = @_;

	return slurp_file($node->logfile, $offset);
}

1;
