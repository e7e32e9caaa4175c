// A reconciler in one C file: a bitmap, folded by union.
//
// The value is a string of bits: the days on which a user came by, the chunks of
// a file that have arrived, the flags that were raised. A bit that anybody set is
// set; the longest bitmap gives the length. Tombstones contribute nothing, and
// only tombstones leave the item deleted.
//
// Lawful because "or" minds neither order nor grouping nor repeats, bit by bit,
// and neither does "longest" of the lengths.
//
//     clang --target=wasm32 -O2 -nostdlib -Wl,--no-entry -o bitmap.wasm bitmap.c
//
// No header, no library, no generated code: kinfold knows the types of its own
// contract (wit/reconciler.wit) by the names of the exports below. What follows
// is that contract as the component model's canonical ABI lays it out on 32 bits.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

// list<u8> and string.
struct bytes { u8 *at; u32 length; };
// option<list<u8>>.
struct maybe_bytes { u8 is_some; struct bytes bytes; };
struct dot { struct bytes actor; u64 counter; };
struct sibling {
    struct maybe_bytes value;
    struct bytes content_type;
    u64 written_at;
    struct dot dot;
};
_Static_assert(sizeof(struct sibling) == 48, "as the canonical ABI lays it out");

struct description { struct bytes summary, version; u8 eager; };

enum { OUTCOME_MERGED, OUTCOME_DELETED, OUTCOME_UNRESOLVED };
// result<outcome, string>; this fold never gives the error.
struct folded { u8 is_error; struct { u8 tag; struct bytes value; } outcome; };
_Static_assert(sizeof(struct folded) == 16, "as the canonical ABI lays it out");

// Memory. Every call gets a fresh instance, so nothing is ever given back: the
// heap begins after the program's data and grows.
extern u8 __heap_base;
static u32 heap;

static void *allocate(u32 size, u32 align) {
    if (heap == 0) heap = (u32)&__heap_base;
    u32 at = (heap + align - 1) & -align;
    u32 end = at + size;
    // Beyond 32 bits, or beyond what the host grants: a trap fails this call.
    if (end < at) __builtin_trap();
    u64 have = (u64)__builtin_wasm_memory_size(0) << 16;
    if (end > have) {
        u32 more = (end - have + 0xffff) >> 16;
        if (__builtin_wasm_memory_grow(0, more) == (__SIZE_TYPE__)-1) __builtin_trap();
    }
    heap = end;
    return (void *)at;
}

// The host asks for memory with this, to pass lists and strings in. It never
// shrinks or grows what it was given.
__attribute__((export_name("cabi_realloc")))
void *cabi_realloc(void *old, u32 old_size, u32 align, u32 size) {
    (void)old;
    (void)old_size;
    return allocate(size, align);
}

#define TEXT(literal) { (u8 *)(literal), sizeof(literal) - 1 }

__attribute__((export_name("kinfold:reconciler/reconcile@1.0.0#describe")))
struct description *describe(void) {
    static struct description description = {
        TEXT("A bitmap: a bit that anybody set is set"),
        TEXT("1.0.0"),
        // A bit is never taken back, so nothing is lost by folding at once.
        1,
    };
    return &description;
}

// The parameters are item (table, partition key, optional sort key) and the list
// of siblings, flattened; the result is left in memory.
__attribute__((export_name("kinfold:reconciler/reconcile@1.0.0#fold")))
struct folded *fold(
    u8 *table, u32 table_length,
    u8 *partition_key, u32 partition_key_length,
    u32 has_sort_key, u8 *sort_key, u32 sort_key_length,
    const struct sibling *siblings, u32 count
) {
    (void)table, (void)table_length, (void)partition_key, (void)partition_key_length;
    (void)has_sort_key, (void)sort_key, (void)sort_key_length;

    static struct folded folded;
    folded.outcome.tag = OUTCOME_DELETED;
    u32 length = 0;
    for (u32 i = 0; i < count; i++) {
        const struct maybe_bytes *value = &siblings[i].value;
        if (!value->is_some) continue;
        folded.outcome.tag = OUTCOME_MERGED;
        if (value->bytes.length > length) length = value->bytes.length;
    }
    // Fresh memory is zero.
    u8 *bits = allocate(length, 1);
    for (u32 i = 0; i < count; i++) {
        const struct maybe_bytes *value = &siblings[i].value;
        if (!value->is_some) continue;
        for (u32 at = 0; at < value->bytes.length; at++) bits[at] |= value->bytes.at[at];
    }
    folded.outcome.value = (struct bytes){ bits, length };
    return &folded;
}
