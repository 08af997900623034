/* QEMU plugin: counts the aarch64 instructions that a program executes, by class.
 *
 * The program marks points by closing a file descriptor that cannot exist, MARK; at each a line of counters is
 * written to the file that the argument out=FILE names. Counters are of all threads together. The interface is
 * version 1 of QEMU's plugin API (QEMU 6 and 7), declared here because Debian ships no header.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define SYS_CLOSE 57 /* aarch64 Linux */
#define MARK (-7700)

typedef uint64_t plugin_id;
struct info;
struct block;
struct instruction;
enum inline_op { ADD_U64 };
typedef void (*on_block_fn)(plugin_id, struct block *);
typedef void (*on_syscall_fn)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                              uint64_t, uint64_t, uint64_t);
typedef void (*on_exit_fn)(plugin_id, void *);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_block_fn);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall_fn);
extern void qemu_plugin_register_atexit_cb(plugin_id, on_exit_fn, void *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, enum inline_op, void *, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern const void *qemu_plugin_insn_data(const struct instruction *);

EXPORT int qemu_plugin_version = 1;

enum { ALL, DOT, FMLA, LOAD_STORE, CLASSES };
static uint64_t counted[CLASSES];
static FILE *out;

/* Bit patterns: Arm Architecture Reference Manual for A-profile, C4.1 "A64 instruction set encoding". */
static bool is_dot(uint32_t word) /* SDOT, UDOT: vectors; by element */
{
    return (word & 0x9fe0fc00) == 0x0e809400 || (word & 0x9fc0f400) == 0x0f80e000;
}

static bool is_fmla(uint32_t word) /* FMLA of single precision: vectors; by element */
{
    return (word & 0xbfe0fc00) == 0x0e20cc00 || (word & 0xbfc0f400) == 0x0f801000;
}

static bool is_load_store(uint32_t word) /* op0 = x1x0: scalar and vector, prefetches too */
{
    return (word & 0x0a000000) == 0x08000000;
}

/* At translation a block's instructions are sorted once; running it only adds. */
static void on_block(plugin_id id, struct block *block)
{
    size_t length = qemu_plugin_tb_n_insns(block);
    uint64_t found[CLASSES] = {[ALL] = length};
    (void)id;
    for (size_t i = 0; i < length; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        found[DOT] += is_dot(word);
        found[FMLA] += is_fmla(word);
        found[LOAD_STORE] += is_load_store(word);
    }
    for (int kind = 0; kind < CLASSES; kind++)
        if (found[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &counted[kind], found[kind]);
}

static void write_line(void)
{
    fprintf(out, "%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\n", counted[ALL], counted[DOT], counted[FMLA],
            counted[LOAD_STORE]);
    fflush(out);
}

static void on_syscall(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                       uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == SYS_CLOSE && (int32_t)a1 == MARK)
        write_line();
}

static void on_exit_of_program(plugin_id id, void *data)
{
    (void)id, (void)data;
    fclose(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const struct info *info, int argc, char **argv)
{
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) || !(out = fopen(argv[0] + 4, "w"))) {
        fprintf(stderr, "insn_count: give out=FILE, a file that can be written\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_exit_of_program, NULL);
    return 0;
}
