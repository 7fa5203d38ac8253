/* pass_mail.cuh: how the blocks of threads of a pass (pass.cu) hand numbers to each other: as letters.
 *
 * A letter is a word and the number of the block of the model that it was written in. Both are stored at
 * once, so whoever finds the number has the word: no fence, no second way through memory. The
 * numbers of a pass have not been there before (rf_cuda_mail).
 *
 * What a slot of the mail has is written again three blocks later. By then every block of threads must have
 * read it, also one that has little to do: they count the blocks that they have done with, and nobody sends a
 * letter of block i before all have done with block i - 2. That is looked up in block i - 1, while the others
 * make attention. */
#ifndef RF_KERNELS_CUDA_INFER_PASS_MAIL_CUH
#define RF_KERNELS_CUDA_INFER_PASS_MAIL_CUH

#include "common/kernels/cuda/infer/pass_room.cuh"
#include "common/kernels/cuda/infer/stream.cuh"

/* --- Letters ----------------------------------------------------------------------------------- */

static __device__ inline letter letter_of(uint32_t word, uint32_t number)
{
    return static_cast<letter>(number) << 32 | word;
}

static __device__ inline void send(letter *to, uint32_t word, uint32_t number)
{
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(letter_of(word, number))
                 : "memory");
}

/* Aligned to 16 bytes. */
static __device__ inline void send_two(letter *to, uint32_t first, uint32_t second, uint32_t number)
{
    asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(to),
                 "l"(letter_of(first, number)), "l"(letter_of(second, number))
                 : "memory");
}

static __device__ inline void look(letter (&seen)[2], const letter *from)
{
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                 : "=l"(seen[0]), "=l"(seen[1])
                 : "l"(from)
                 : "memory");
}

static __device__ inline float word_of(letter seen)
{
    return __uint_as_float(static_cast<uint32_t>(seen));
}

static __device__ inline bool has_number(letter seen, uint32_t number)
{
    return static_cast<uint32_t>(seen >> 32) == number;
}

static __device__ inline bool has_number(const letter (&seen)[2], uint32_t number)
{
    return has_number(seen[0], number) && has_number(seen[1], number);
}

/* Where a pair of letters lies, aligned to 16 bytes, if it is wanted. */
struct pair_place {
    bool is_wanted;
    const letter *from;
};

/* Waits for pairs of letters, the i-th from place at(i). Looks again only for those that are missing: all blocks of
 * threads look, through the cache that the letters come through. */
template <int COUNT, typename At>
static __device__ inline void receive(letter (&seen)[COUNT][2], uint32_t number, const At &at)
{
    bool is_here;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        seen[i][0] = seen[i][1] = 0U;
    }
    do {
        is_here = true;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const pair_place own = at(i);
            if (own.is_wanted && !has_number(seen[i], number)) {
                look(seen[i], own.from);
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            is_here = is_here && (!at(i).is_wanted || has_number(seen[i], number));
        }
    } while (!is_here);
}

static __device__ inline letter look_at_one(const letter *from)
{
    letter seen;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(from) : "memory");
    return seen;
}

/* The letter that was looked at before, when it is there. */
static __device__ inline float receive_one(letter seen, const letter *from, uint32_t number)
{
    while (!has_number(seen, number)) {
        seen = look_at_one(from);
    }
    return word_of(seen);
}

/* --- The mail of a block of the model ---------------------------------------------------------- */

/* The number of block i of the launch, its slot, and the stream that it begins with (NULL: that in memory, of
 * the launch's first block). The last one's stream goes to memory. */
struct mail {
    uint32_t number;
    letter *slot;
    const letter *stream;
    bool is_last;
};

static __device__ inline mail mail_of(const own_pass &p, int i, uint32_t first_number)
{
    letter *all = p.attention.mail.letter;
    const int block = p.before + i, before = block + RF_CUDA_PASS_SLOTS - 1;
    return {first_number + static_cast<uint32_t>(block),
            all + block % RF_CUDA_PASS_SLOTS * p.slot.letters,
            i == 0 ? nullptr : all + before % RF_CUDA_PASS_SLOTS * p.slot.letters + p.slot.stream,
            i + 1 == p.blocks};
}

/* Of each of `rows` rows of letters, `step` apart, a piece for each lane of a warp: of `count` letters at most that
 * lie side by side; through `own` [WARP * PIECE] in shared memory, since the lanes of a warp had better look at
 * neighbouring letters. */
template <int ROWS>
static __device__ inline void receive_pieces(piece (&x)[ROWS], int rows, const letter *from,
                                             int step, int count, float *own, uint32_t number)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    enum { PAIRS = PIECE / 2 };
    letter seen[ROWS * PAIRS][2];
    receive(seen, number, [&](int k) {
        const int at = (k % PAIRS * WARP + lane) * 2;
        return pair_place{k / PAIRS < rows && at < count, from + k / PAIRS * step + at};
    });
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
        for (int e = 0; e < PAIRS; e++) {
            const letter(&pair)[2] = seen[i * PAIRS + e];
            *reinterpret_cast<float2 *>(own + (e * WARP + lane) * 2) = {word_of(pair[0]),
                                                                        word_of(pair[1])};
        }
        __syncwarp();
        x[i] = read_piece(own + lane * PIECE);
        __syncwarp();
    }
}

/* Of each of `rows` rows of a stream [width], `step` apart, a piece for each lane of a warp, from element `begin`
 * on, the first lane's: of letters, or of memory where `row` is NULL. */
template <int ROWS>
static __device__ inline void read_streams(piece (&x)[ROWS], int rows, const float *memory,
                                           const letter *row, int step, int begin, int width,
                                           float *own, uint32_t number)
{
    if (row != nullptr) {
        receive_pieces(x, rows, row + begin, step, width - begin, own, number);
        return;
    }
    const int at = begin + static_cast<int>(threadIdx.x) % WARP * PIECE;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        x[i] = i < rows && at < width ? read_piece(memory + i * step + at) : piece{};
    }
}

/* What attention made of part `row` and a head: WIDTH letters of o, then the state. From the first part. */
static __device__ inline int part_letters(const own_pass &p, int row, int head)
{
    return (row * static_cast<int>(p.attention.h) + head) * int{RF_CUDA_PART_LETTERS};
}

static __device__ inline letter *first_part(const own_pass &p)
{
    return p.attention.mail.letter + RF_CUDA_PASS_SLOTS * p.slot.letters;
}

/* --- Who has done with what -------------------------------------------------------------------- */

/* One thread does this, and the other workers meet it later: the last, which mostly has the least to do. */
static __device__ inline bool keeps_count()
{
    return threadIdx.x == WORKERS - 1;
}

/* This block of threads has read all that it will of block i of the launch. After its workers have met. */
static __device__ inline void done_with(const own_pass &p, int i)
{
    if (keeps_count()) {
        uint32_t *arrived = p.attention.mail.arrived + (p.before + i) % RF_CUDA_ARRIVED;
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
    }
}

/* All blocks of threads have done with block i, of an earlier launch where it is negative. Holds for the
 * other workers when they have met. */
static __device__ inline void wait_for_all(const own_pass &p, int i)
{
    const int block = p.before + i;
    if (keeps_count() && block >= 0) {
        const uint32_t *arrived = p.attention.mail.arrived + block % RF_CUDA_ARRIVED;
        const uint32_t wanted = (static_cast<uint32_t>(block) / RF_CUDA_ARRIVED + 1U) * gridDim.x;
        uint32_t seen;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                         : "=r"(seen)
                         : "l"(arrived)
                         : "memory");
        } while (seen < wanted);
    }
}

#endif
