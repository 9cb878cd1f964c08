// Does AMX work here, or do the CPU flags only say so? Multiplies one tile, configured as llama.cpp does it (each
// thread for itself, on a stack that was used before); any signal is the answer "no".
#include <cstdint>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;

struct TileConfig {
    uint8_t palette = 0, start_row = 0, reserved[14] = {0};
    uint16_t row_bytes[16] = {0};
    uint8_t rows[16] = {0};
};

__attribute__((noinline)) static void leave_traces_on_the_stack() {
    volatile char traces[4096];
    for (auto &byte : traces) byte = 0x77;
}

__attribute__((noinline)) static void configure() {
    static thread_local bool done = false;
    if (done) return;
    alignas(64) TileConfig config;
    config.palette = 1;
    for (int tile = 0; tile < 8; tile++) {
        config.rows[tile] = 16;
        config.row_bytes[tile] = 64;
    }
    _tile_loadconfig(&config);
    done = true;
}

int main() {
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0) return 1;
    int8_t left[16][64], right[16][64];
    int32_t product[16][16];
    for (auto &row : left) for (auto &value : row) value = 1;
    for (auto &row : right) for (auto &value : row) value = 2;
    leave_traces_on_the_stack();
    configure();
    _tile_zero(0);
    _tile_loadd(1, left, 64);
    _tile_loadd(2, right, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, product, 64);
    _tile_release();
    return product[3][5] == 128 ? 0 : 1;
}
