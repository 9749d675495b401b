// The fingerprint of the sources this library was built from (given by build.py), so that a stale one is refused.
#include "api.h"

#ifndef CONVSWAP_SOURCE_HASH
#define CONVSWAP_SOURCE_HASH "unknown"
#endif

CONVSWAP_API const char* convswap_source_hash() { return CONVSWAP_SOURCE_HASH; }
