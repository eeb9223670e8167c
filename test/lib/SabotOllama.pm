# A stand-in for Ollama, started and stopped by a TAP test.
#
#	my $ollama = SabotOllama->new(service => 'fixed:20ms', fault => [...]);
#	my $url = $ollama->url;
#	sql($node, "SELECT sabot.add_llm_endpoint('default', '$url')");
#	$ollama->faults('500:once');
#	is($ollama->stats->{prompts}, 3, 'three requests');
#
# Its options are those of test/lib/ollama_stand_in, where - is _ and a list
# is an option given more than once.  It ends with the test, whichever way
# that ends: it reads from a pipe that only the test holds open.
package SabotOllama;

use strict;
use warnings;

use Cwd 'abs_path';
use File::Basename 'dirname';
use HTTP::Tiny;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use SabotTest 'wait_until';

my $program = abs_path(dirname(__FILE__)) . '/ollama_stand_in';
my $made = 0;
my %running;

# new(OPTION => VALUE, ...) - a stand-in that listens, on a free port unless
# port is given
sub new
{
	my ($class, %options) = @_;
	my $name = 'ollama_' . ++$made;
	my $self = bless {
		owner => $$,
		port_file => PostgreSQL::Test::Utils::tempdir() . "/$name.port",
		log => "$PostgreSQL::Test::Utils::log_path/${name}_$$.log",
		port => delete $options{port} // 0,
		options => [],
		http => HTTP::Tiny->new(
			timeout => $PostgreSQL::Test::Utils::timeout_default,
			proxy => undef,
			http_proxy => undef),
	}, $class;

	foreach my $option (sort keys %options)
	{
		my $value = $options{$option};

		(my $switch = "--$option") =~ tr/_/-/;
		push @{ $self->{options} }, $switch, $_
		  foreach ref $value ? @$value : $value;
	}
	return $self->start;
}

# _exec() - become the server, in the child; $in is its end of the pipe
sub _exec
{
	my ($self, $in) = @_;

	open(STDIN, '<&', $in) or POSIX::_exit(126);
	open(STDOUT, '>>', $self->{log}) or POSIX::_exit(126);
	open(STDERR, '>&', \*STDOUT) or POSIX::_exit(126);
	no warnings 'exec';
	exec('python3', $program, '--while-stdin', '--port', $self->{port},
		'--port-file', $self->{port_file}, @{ $self->{options} });
	print STDERR "could not run python3: $!\n";
	POSIX::_exit(127);
}

# start() - start it, again on its old port if it has run before
sub start
{
	my ($self) = @_;

	die "the stand-in runs already\n" if $self->{pid};
	unlink $self->{port_file};
	pipe(my $in, my $out) or die "could not make a pipe: $!\n";
	my $pid = fork // die "could not fork: $!\n";
	$self->_exec($in) if $pid == 0;
	close $in;
	@$self{qw(pid stdin)} = ($pid, $out);
	$running{$pid} = $$;

	wait_until(sub { -s $self->{port_file} || !$self->_alive })
	  && $self->{pid}
	  or die "the stand-in does not start:\n" . slurp_file($self->{log});
	$self->{port} = slurp_file($self->{port_file}) + 0;
	return $self;
}

# _alive() - whether the process is there; forgets it if it has ended
sub _alive
{
	my ($self) = @_;

	return 0 unless $self->{pid};
	return 1 if waitpid($self->{pid}, POSIX::WNOHANG()) == 0;
	delete $running{ $self->{pid} };
	delete @$self{qw(pid stdin)};
	return 0;
}

# stop(SIGNAL) - end it, if it runs, and wait until it has gone; KILL leaves
# its clients with connections that end
sub stop
{
	my ($self, $signal) = @_;

	return unless $self->_alive;
	kill($signal // 'TERM', $self->{pid});
	wait_until(sub { !$self->_alive }) or die "the stand-in does not end\n";
	return;
}

# url() - where it is
sub url
{
	my ($self) = @_;

	return "http://127.0.0.1:$self->{port}";
}

# port() and pid()
sub port { return $_[0]{port}; }
sub pid { return $_[0]{pid}; }

# call(METHOD, PATH, BODY) - the decoded reply; dies if that is an error
sub call
{
	my ($self, $method, $path, $body) = @_;
	my %params =
	  defined $body ? (content => JSON::PP->new->utf8->encode($body)) : ();
	my $reply = $self->{http}->request($method, $self->url . $path, \%params);

	die "$method $path: $reply->{status} $reply->{content}\n"
	  unless $reply->{success};
	return JSON::PP->new->utf8->decode($reply->{content});
}

# stats() - all that it has counted
sub stats
{
	my ($self) = @_;

	return $self->call('GET', '/_stats');
}

# requests(REGEX) - what it was sent, oldest first: hashes with path, headers
# (in lower case), body (decoded), prompt, status, fault, connection and service
# (seconds).  With a regex, those whose prompt matches.  It remembers the last
# 1000.
sub requests
{
	my ($self, $regex) = @_;
	my $recent = $self->call('GET', '/_stats?recent')->{recent};

	return @$recent unless defined $regex;
	return grep { $_->{prompt} =~ $regex } @$recent;
}

# control({ NAME => VALUE, ... }) - change settings or make something happen
sub control
{
	my ($self, $wanted) = @_;

	return $self->call('POST', '/_control', $wanted);
}

# faults(FAULT, ...) - set these faults and no others
sub faults
{
	my ($self, @faults) = @_;

	return $self->control({ faults => \@faults });
}

# release() - answer the requests that a fault named hold keeps; how many
sub release
{
	my ($self) = @_;

	return $self->control({ release => JSON::PP::true })->{results}{release};
}

# reset() - start counting again
sub reset    ## no critic (ProhibitBuiltinHomonyms)
{
	my ($self) = @_;

	return $self->call('POST', '/_reset');
}

# wait_for(NAME, VALUE) - wait until one of its counters has at least that
# value; false if that takes too long
sub wait_for
{
	my ($self, $name, $value) = @_;

	return wait_until(sub { $self->stats->{$name} >= $value });
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@, $!);

	kill('KILL', $self->{pid}) if $self->{owner} == $$ && $self->_alive;
	return;
}

END
{
	local $?;
	kill('KILL', grep { $running{$_} == $$ } keys %running);
}

1;
