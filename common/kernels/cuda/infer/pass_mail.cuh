/* pass_mail.cuh: how the blocks of threads of a pass (pass.cu) hand numbers to each other: as letters.
 *
 * A letter is a word and the number of the block of the model that it was written in. Both are stored at
 * once, so whoever finds the number has the word: no fence, no counter, no second way through memory. The
 * numbers of a pass have not been there before (rf_cuda_mail).
 *
 * What a slot of the mail has is written again three blocks later. By then every block of threads must have
 * read it, also one that has little to do: they count the blocks that they have done with, and nobody sends a
 * letter of block i before all have done with block i - 2. In passing, for by then they long have. */
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

static __device__ inline bool has_number(const letter (&seen)[2], uint32_t number)
{
    return static_cast<uint32_t>(seen[0] >> 32) == number &&
           static_cast<uint32_t>(seen[1] >> 32) == number;
}

/* Waits for letters that lie side by side, aligned to 16 bytes. */
template <int COUNT>
static __device__ inline void receive(uint32_t (&word)[COUNT], const letter *from, uint32_t number)
{
    static_assert(COUNT % 2 == 0, "pairs");
    letter seen[COUNT / 2][2];
    bool is_here;
    do {
        is_here = true;
#pragma unroll
        for (int e = 0; e < COUNT / 2; e++) {
            look(seen[e], from + 2 * e);
        }
#pragma unroll
        for (int e = 0; e < COUNT / 2; e++) {
            is_here = is_here && has_number(seen[e], number);
        }
    } while (!is_here);
#pragma unroll
    for (int e = 0; e < COUNT; e++) {
        word[e] = static_cast<uint32_t>(seen[e / 2][e % 2]);
    }
}

static __device__ inline float receive_one(const letter *from, uint32_t number)
{
    letter seen;
    do {
        asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(from) : "memory");
    } while (static_cast<uint32_t>(seen >> 32) != number);
    return word_of(seen);
}

/* --- The mail of a block of the model ---------------------------------------------------------- */

/* Block i of this launch. */
static __device__ inline mail mail_of(const own_pass &p, int i, uint32_t number)
{
    const int block = p.before + i, before = block + RF_CUDA_PASS_SLOTS - 1;
    letter *slot = p.attention.mail.letter;
    return {slot + block % RF_CUDA_PASS_SLOTS * p.slot.letters,
            i == 0 ? nullptr : slot + before % RF_CUDA_PASS_SLOTS * p.slot.letters + p.slot.stream,
            number, i + 1 == p.blocks};
}

/* Elements [at, at + 8) of a stream: letters, or memory where `from` is NULL. */
static __device__ inline piece read_stream(const own_pass &p, const letter *from, uint32_t number,
                                           int64_t at)
{
    if (from == nullptr) {
        return read_piece(p.x + at);
    }
    uint32_t word[PIECE];
    piece x;
    receive(word, from + at, number);
#pragma unroll
    for (int e = 0; e < PIECE; e++) {
        x.x[e] = __uint_as_float(word[e]);
    }
    return x;
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
