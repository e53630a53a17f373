/* event.c: the table of the kinds of events. */
#include "core/event.h"

#include "base/macros.h"

const struct event_kind event_kinds[] = {
        {"daemon_started", "ef503deba6f74b7a8a3afc5354981118", "the supervisor has started"},
        {"stopping", "48d51956ba704faca5ec6037698993ea", "the supervisor was told to stop"},
        {"upgraded", "36e4c06c5d6441359b860ecc8c6f180f",
         "the supervisor was replaced by its installed version, in place"},
        {"upgrade_postponed", "8af3ac979102430581575ad08ced75a6",
         "an upgrade was not done, since requests outlasted its patience"},
        {"upgrade_failed", "04244752d00b4b63a0e8ecef4e494de8",
         "an upgrade was refused or failed; the old version goes on"},
        {"reload", "41db2d79cbbe46a7bfb5a3e2303cb3d3", "the configuration was read again"},
        {"reload_failed", "dc43b9369701468fa02dc9262ce42264",
         "the configuration has errors; nothing was changed"},
        {"limits", "401cd894046b4fb8833c4cdf2b2b87cf", "limits of instances cannot be kept"},
        {"started", "e56615e5532647088dfb4ee8bcf085c0", "the process of an instance was started"},
        {"ready", "640e8c75147945028c839df548610cec", "an instance answers and takes work"},
        {"adopted", "6814e796c90d4b459c877bb662aaa36c", "a process of an earlier supervisor was taken over"},
        {"found", "1ebbe9b75b544fa784e910570f802537", "somebody else's server answers"},
        {"lost", "8739a730ee684d018e79b1d767126e30", "somebody else's server does not answer any more"},
        {"unhealthy", "ecf12609724545b7baaef28bd16b9f14", "an instance does not answer well"},
        {"recovered", "e3bade7c2c584a8297ee5e4a25e3a54c", "an unhealthy instance answers well again"},
        {"resumed", "6214d84753ff4ae99008e6ebc3b4b364", "an instance that was to stop takes work again"},
        {"stopped", "af9f267072364f76ac5099ec1a85acaa", "an instance was stopped, as it was told"},
        {"died", "a57b48dd6ff84022937686a0bf270461",
         "an instance ended by itself, or was killed since it did not answer"},
        {"gave_up", "044b6b7feb3c495f9f49e8f68d3b1436", "an instance died too often and is not tried again"},
        {"refused", "cd4d72a2fbd14f58a06d4ed2b61a4ed4",
         "an instance was not started, since it does not fit into the GPUs"},
        {"roll_stopped", "953b44ba2a54428e99cf6560fcf9cde6",
         "a rolling restart was given up, since a replica did not come back"},
        {"ejected", "c53afa9796e64bbab3d838fde5c7fb13",
         "an instance gets no requests for a while, since too many failed"},
        {"gpu_error", "afe792bb87bd466c975aea2a55c2da99",
         "the driver of a GPU reported an error (NVIDIA: Xid)"},
        {"gpu_lost", "59bc83340422450fb459a7325bf0d444", "a GPU cannot be reached any more"},
        {"gpu_back", "08f921ebab654660ad9ca476ff0a61c1", "a lost GPU can be reached again"},
        {"gpu_silent", "b7adca388c634d29a64f0e211ff2a9ef", "the driver of a GPU does not answer"},
        {"load", "93c861af6d494d9c878c4e151522b071", "a model is loaded, since somebody asked for it"},
        {"unload", "1a34ee33e62c44bc88bbf08a35200d40",
         "a model is unloaded, since nobody asks for it or another one needs the room"},
        {"load_given_up", "cc0a2ffd31f940cd8e10be964765c933", "a model that was asked for was not loaded"},
        {"scale_out", "6b399da8c5354d7c97b6220707ca6aaf", "a model gets one more replica"},
        {"scale_in", "cddb8f37a3e743ec92ac034a4f959331", "a model gets by with fewer replicas"},
        {"created", "b86577f2e3724726986db9808d03db90", "an instance was started from the model library"},
        {"removed", "f710ab1134d44910b80b2c098cefb6d4", "an instance from the model library was forgotten"},
        {"dynamic_lost", "481dee78acc0408490a405b8257732cc",
         "the list of instances from the model library cannot be read"},
        {"hub_up", "e273bdda08a74615b51804e28975df27", "a hub is connected and may send jobs"},
        {"hub_down", "8d4c538edb0648d6ad3ede27588b31f1", "the link to a hub is lost, or could not be made"},
        {"hub_revoked", "15943cd8d2ae4e719365f90c615223db", "a hub refuses our key"},
        {NULL, NULL, NULL},
};

const struct event_kind *event_kind_find(const char *name)
{
        for (const struct event_kind *k = event_kinds; name && k->name; k++)
                if (streq(k->name, name))
                        return k;
        return NULL;
}
