// Included before everything when llama.cpp is compiled for a CPU with AMX.
//
// GCC's own _tile_loadconfig tells the optimiser that the instruction reads 8 bytes of the 64 that a tile configuration
// has. The stores to the others look dead and are dropped, what happens to be on the stack is loaded, and the first
// decode dies (SIGILL, or SIGSEGV for a general protection fault). llama.cpp PR #26954 tells the same.
#if defined(__AMX_TILE__) && !defined(__clang__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char(*)[64])(config)))
#endif
