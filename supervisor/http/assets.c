/* assets.c: files that are part of the binary. The assembler puts their bytes in (.incbin), so that no generator is needed;
 * LSV_DOCS_DIR is their folder at build time only. */
#include "http/doors_private.h"
#include "http/respond.h"

#define EMBED(symbol, file)                                                                                  \
        __asm__(".pushsection .rodata\n"                                                                     \
                ".global " #symbol "\n" #symbol ":\n"                                                        \
                ".incbin \"" LSV_DOCS_DIR "/" file "\"\n"                                                    \
                ".global " #symbol "_end\n" #symbol "_end:\n"                                                \
                ".byte 0\n"                                                                                  \
                ".popsection\n");                                                                            \
        extern const char symbol[], symbol##_end[]

EMBED(lsv_openapi, "api/openapi.json");
EMBED(lsv_asyncapi, "api/asyncapi.json");

static void answer(struct call *call, const char *begin, const char *end)
{
        respond_text(call->req, 200, "application/json", NULL, begin, (size_t)(end - begin));
}

void openapi_handle(struct call *call)
{
        answer(call, lsv_openapi, lsv_openapi_end);
}

void asyncapi_handle(struct call *call)
{
        answer(call, lsv_asyncapi, lsv_asyncapi_end);
}
