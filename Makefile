# sabot/Makefile

EXTENSION = sabot
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" sabot.control)
PGFILEDESC = "sabot - durable background jobs on warm agents"
PG_CONFIG ?= pg_config

# One folder per capability, in dependency order: each holds its C and the
# SQL objects it owns.  The install script is their SQL, concatenated.
ROOMS = pool jobs llm route

MODULE_big = sabot
SRCS = $(wildcard src/*.c $(ROOMS:%=src/%/*.c))
OBJS = $(SRCS:.c=.o)
SHLIB_LINK = -lcurl -lcjson

# -isystem: the warnings below are for our code, not for the server's headers.
PG_CPPFLAGS = -isystem $(INCLUDEDIR_SERVER) -Isrc \
	-DSABOT_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -std=gnu11 -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wshadow -Wstrict-prototypes \
	-Wold-style-definition -Wundef -Wcast-qual -Wformat=2 -Wnull-dereference \
	$(if $(WERROR),-Werror)

# No bitcode: the server's JIT compiler has nothing of ours to inline.
override with_llvm = no

INSTALL_SQL = sabot--$(EXTVERSION).sql
DATA_built = $(INSTALL_SQL)
ROOM_SQL = $(foreach room,$(ROOMS),$(sort $(wildcard src/$(room)/*.sql)))
DATA = $(wildcard src/upgrade/sabot--*--*.sql)

# All three kinds of test start their own server; none needs a running one.
ENCODING = UTF8
NO_LOCALE = 1
REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
REGRESS_OPTS = --temp-instance=tmp_regress --temp-config=test/sabot.conf \
	--outputdir=tmp_regress_out --load-extension=sabot
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --temp-instance=tmp_isolation --temp-config=test/sabot.conf \
	--inputdir=test --outputdir=tmp_isolation_out --load-extension=sabot
TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

# Not tmp_demo: it leads to a server that may be running (make demo-stop).
EXTRA_CLEAN = tmp_server tmp_test tmp_regress* tmp_isolation*

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(wildcard $(PGXS)),)

INCLUDEDIR_SERVER := $(shell $(PG_CONFIG) --includedir-server)
include $(PGXS)

# The server's flags are those for gcc; clang refuses some of them.  And it
# sees a cast in unconstify(), which for gcc is the server's.
ifneq ($(findstring clang,$(CC)),)
override CFLAGS := $(filter-out -fexcess-precision=%,$(CFLAGS)) \
	-Wno-unknown-warning-option -Wno-cast-qual
endif

# PGXS does not track headers; and objects made for one server, or by one
# compiler, are no use to another.
$(OBJS): $(wildcard src/*.h src/*/*.h) sabot.control tmp_server

tmp_server: FORCE
	@echo '$(VERSION) $(INCLUDEDIR_SERVER) $(CC)' | cmp -s - $@ || \
		echo '$(VERSION) $(INCLUDEDIR_SERVER) $(CC)' > $@

$(INSTALL_SQL): src/install.sql $(ROOM_SQL) src/check.sql Makefile
	rm -f $@
	cat $(filter %.sql,$^) > $@

else

# Only the targets further down work: they install what is missing first.
all install clean installcheck: FORCE
	@echo "$(PG_CONFIG): cannot build extensions with it;" \
		"install postgresql-server-dev-NN or set PG_CONFIG" >&2; exit 1

endif

# Each of these may be run by hand; test/lib/ says how they work.
.PHONY: FORCE demo demo-stop test torture bench lint indent
demo demo-stop:
	@test/lib/$@
test:
	@test/lib/run-tests
torture:
	@SABOT_TORTURE=long PROVE_TESTS='test/t/*torture*.pl test/t/*chaos*.pl' \
		test/lib/run-tests tap
bench:
	@test/bench/run
lint indent:
	@.ci/$@
