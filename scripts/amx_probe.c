// Does AMX work here, or do the CPU flags only say so? Multiplies one tile; any signal is the answer "no".
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

int main(void) {
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0) return 1;
    struct { uint8_t palette, start_row, reserved[14]; uint16_t colsb[16]; uint8_t rows[16]; } config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int tile = 0; tile < 3; tile++) { config.colsb[tile] = 64; config.rows[tile] = 16; }
    static int8_t left[16][64], right[16][64];
    static int32_t product[16][16];
    memset(left, 1, sizeof left);
    memset(right, 2, sizeof right);
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_loadd(1, left, 64);
    _tile_loadd(2, right, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, product, 64);
    _tile_release();
    return product[3][5] == 128 ? 0 : 1;
}
