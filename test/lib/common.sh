# shellcheck shell=bash
#
# What the scripts here share: where they run, as whom, with which PostgreSQL.
# To be sourced; the working directory is the top of the tree from then on.
#
# A clone may belong to somebody else, or lie where only root can look, and
# PostgreSQL refuses to run as root.  So servers live in directories of their
# own under /tmp, which is open to everybody, and run as postgres when we are
# root.  /tmp's name is also short enough for a socket.

set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
umask 022
export TMPDIR=/tmp

# Neither a surrounding make nor the caller's psql settings are for us.
unset MAKEFLAGS MFLAGS MAKELEVEL LANGUAGE LC_ALL
unset PGHOST PGHOSTADDR PGPORT PGDATABASE PGUSER PGPASSWORD PGPASSFILE \
	PGSERVICE PGSERVICEFILE PGOPTIONS PGSSLMODE PGDATA
export LANG=C.UTF-8

: "${PG_CONFIG:=pg_config}"
case $PG_CONFIG in */*) PG_CONFIG=$(realpath -s "$PG_CONFIG") ;; esac
export PG_CONFIG

# Prefix of a command that the server's user is to run.
as_server=()
if [ "$(id -u)" = 0 ]; then
	server_user=postgres
	id -u $server_user >/dev/null 2>&1 || server_user=nobody
	as_server=(runuser -u $server_user -- env HOME=/tmp)
fi

# die MESSAGE... - give up
die()
{
	echo "$(basename "$0"): $*" >&2
	exit 1
}

# private_dir NAME - print a new directory that belongs to the server's user
private_dir()
{
	local dir

	dir=$(mktemp -d "/tmp/sabot-$1.XXXXXX")
	[ ${#as_server[@]} = 0 ] || chown "$server_user" "$dir"
	echo "$dir"
}

# copy_tree DIR - copy the sources, and what is built already, to DIR
copy_tree()
{
	mkdir -p "$1"
	tar -cf - --exclude=./.git --exclude='./tmp_*' . | tar -xf - -C "$1"
}

# install_to DIR - build, and install so that only servers which include
# DIR/sabot.conf see it
#
# Debian's PostgreSQL has extension_destdir for this.  Another one is taken to
# be there for such tests: sabot goes into its own folders.
install_to()
{
	local tree=.

	mkdir -p "$1"
	if ! [ -O . ]; then
		tree=$1/src			# leave nothing in a tree that is not ours
		copy_tree "$tree"
	fi
	make -s -C "$tree" -j"$(nproc)"

	echo "shared_preload_libraries = '\$libdir/sabot'" > "$1/sabot.conf"
	if "$("$PG_CONFIG" --bindir)/postgres" --describe-config |
		grep ^extension_destdir >/dev/null; then
		make -s -C "$tree" install DESTDIR="$1"
		echo "extension_destdir = '$1'" >> "$1/sabot.conf"
	elif [ -w "$("$PG_CONFIG" --pkglibdir)" ]; then
		make -s -C "$tree" install
	else
		die "cannot install into $("$PG_CONFIG" --pkglibdir)"
	fi
}

# start_server DIR - make a server in DIR/data and start it, with the settings
# in DIR/*.conf; it listens on a socket in DIR only
start_server()
{
	local bin

	bin=$("$PG_CONFIG" --bindir)
	ln -s "$bin" "$1/bin"
	"${as_server[@]}" sh -eu -c "cd '$1'
		bin/initdb -D data -U postgres -A trust -N -E UTF8 --no-locale >initdb.log
		{
			echo \"listen_addresses = ''\"
			echo \"unix_socket_directories = '$1'\"
			echo \"include_dir = '$1'\"
		} >> data/postgresql.conf
		bin/pg_ctl -D data -l server.log -w start >/dev/null" || {
		cat "$1"/*.log >&2
		die "could not start a server in $1"
	}
}

# start_ollama DIR OPTION... - start the stand-in for Ollama; its address is
# then http://127.0.0.1:$(cat DIR/ollama.port)
start_ollama()
{
	local dir=$1
	shift

	rm -f "$dir/ollama.port"
	python3 test/lib/ollama_stand_in --port 0 --port-file "$dir/ollama.port" \
		"$@" </dev/null >"$dir/ollama.log" 2>&1 &
	echo $! >"$dir/ollama.pid"
	for _ in {1..600}; do
		[ ! -s "$dir/ollama.port" ] || return 0
		kill -0 $! 2>/dev/null || break
		sleep 0.05
	done
	cat "$dir/ollama.log" >&2
	die "could not start the stand-in for Ollama"
}

# stop_ollama DIR - stop it, if it runs
stop_ollama()
{
	[ ! -e "$1/ollama.pid" ] || kill "$(cat "$1/ollama.pid")" 2>/dev/null || true
	rm -f "$1/ollama.pid"
}

# stop_server DIR - stop the server in DIR, if it runs; its owner must do that
stop_server()
{
	local as_owner=()

	[ -d "$1/data" ] || return 0
	[ "$(id -u)" != 0 ] ||
		as_owner=(runuser -u "$(stat -c %U "$1/data")" --)
	"${as_owner[@]}" sh -c "cd '$1' && { ! bin/pg_ctl -D data status >/dev/null ||
		bin/pg_ctl -D data -w -t 20 -m fast stop >/dev/null; }"
}
