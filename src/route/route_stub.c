#include "postgres.h"
#include "route/route.h"
void sabot_route_count(SabotRoute route, SabotReason reason, int64 start_us) {}
