/* plan.h: what GET /api/v1/plan answers, for people; main's own `plan` without a daemon shows the same. */
#ifndef LSV_CLI_PLAN_H
#define LSV_CLI_PLAN_H

#include "cli/verb.h"

/* Of those that are named (instances or entries), or all. The exit code: CLI_FAILED when something does not fit, or is not there. */
int plan_show(struct cli *cli, const struct json_value *plan);

#endif
