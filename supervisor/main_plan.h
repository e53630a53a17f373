/* main_plan.h: `llama-supervisor plan` without a daemon: what one would do that is started now. Exit codes as those of the CLI. */
#ifndef LSV_MAIN_PLAN_H
#define LSV_MAIN_PLAN_H

#include <stdbool.h>

/* argv[0] is "plan". --offline is given, or --config FILE and no daemon answers for it. */
bool plan_is_offline(int argc, char **argv);
int plan_offline(int argc, char **argv);

#endif
