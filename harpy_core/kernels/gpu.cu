// The kernels of the engine `cupy`, compiled by NVRTC for each pixel type that a job meets.
//
// A tile's runs arrive sorted by instance and cut into parts of at most 32 runs of one instance. A
// warp sums one part: its lanes share out the chunks of 16 bytes that the runs lie in, evenly and
// side by side, and load each in several channels at a time. What they find is merged in registers
// and leaves the warp once a part, channel and word. Nothing is added in global memory, so the order
// of every sum is fixed: integers are exact, and floats come out the same in every run.
//
// Words are those of layout.py. The tests compile this file as C++ too, so it includes nothing.

typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

constexpr int WARP = 32;
constexpr int COPIERS = 16;  // lanes that copy a stretch together
constexpr u32 ALL = 0xFFFFFFFFu;

__device__ inline int lane_of() { return threadIdx.x % WARP; }

// Which warp of the grid a thread belongs to.
__device__ inline i64 warp_of() {
    return (i64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
}

// What the lane `offset` above holds, whatever its type.
template <class T>
__device__ inline T from_above(const T& value, int offset) {
    static_assert(sizeof(T) % sizeof(u32) == 0, "lanes exchange whole words");
    union Words {
        T value;
        u32 word[sizeof(T) / sizeof(u32)];
        __device__ Words() {}
    } here, there;
    here.value = value;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(T) / sizeof(u32)); ++i)
        there.word[i] = __shfl_down_sync(ALL, here.word[i], offset);
    return there.value;
}

// What any of the lanes holds, bit by bit.
__device__ inline u32 any_of(u32 bits) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    for (int offset = WARP / 2; offset > 0; offset /= 2) bits |= __shfl_xor_sync(ALL, bits, offset);
    return bits;
#else
    return __reduce_or_sync(ALL, bits);
#endif
}

// Pixels as they are loaded: as many as lie in 16 bytes.
template <class Pixel>
struct alignas(16) Chunk {
    static constexpr int SIZE = 16 / sizeof(Pixel);
    union {
        Pixel pixel[SIZE];
        u32 word[4];
    };
    __device__ Chunk() {}
};

// The pixels of a chunk that lie in a run: from `first` up to `last`.
struct Span {
    int first, last;
    __device__ bool has(int i) const { return i >= first && i < last; }
    __device__ u32 bits() const { return ((1u << last) - 1) & ~((1u << first) - 1); }
};

// A pixel as an unsigned number: a signed one is shifted by half its range (layout.bias_of).
template <class Pixel>
__device__ inline u64 unsigned_of(Pixel pixel) {
    constexpr bool is_signed = Pixel(-1) < Pixel(0);
    return is_signed ? (u64)(i64)pixel + (1ull << (8 * sizeof(Pixel) - 1)) : (u64)pixel;
}

// An integer modulo 2^128.
struct Wide {
    u64 low = 0, high = 0;
    __device__ void add(u64 value) {
        low += value;
        high += low < value;
    }
    __device__ void add(const Wide& other) {
        add(other.low);
        high += other.high;
    }
};

template <class T>
__device__ inline T least_of(T a, T b) { return a < b ? a : b; }
template <class T>
__device__ inline T most_of(T a, T b) { return a > b ? a : b; }

// NaN wins, as in NumPy.
__device__ inline double least_of(double a, double b) { return a < b || a != a ? a : b; }
__device__ inline double most_of(double a, double b) { return a > b || a != a ? a : b; }

__device__ inline u64 bits_of(double value) {
    union { double value; u64 bits; } both;
    both.value = value;
    return both.bits;
}
__device__ inline double double_of(u64 bits) {
    union { double value; u64 bits; } both;
    both.bits = bits;
    return both.value;
}

// Sums of some pixels, one type for each family of pixels and what is asked of it. Each has the
// same few functions: `add` the pixels of a chunk that lie in a span, `merge` other sums, `write`
// the words, `read` them back. `Centre` is what distances are taken from, where they are.

struct Nothing {};

struct NoCentre {
    typedef Nothing Centre;
    __device__ static Nothing centre(const u64*, i64) { return Nothing(); }
};

// A span of narrow pixels, of which a word holds two or four: all bits of those that belong to it.
template <class P>
struct Mask {
    static constexpr int EACH = 4 / sizeof(P);
    static constexpr int BITS = 8 * sizeof(P);
    static constexpr u32 PIXEL = (1u << BITS) - 1;
    static constexpr u32 ONES = sizeof(P) == 1 ? 0x01010101u : 0x00010001u;
    u32 word[4];

    __device__ Mask(Span span) {
        // A product spreads a word's bits, one to a pixel.
        constexpr u32 spread = sizeof(P) == 1 ? 0x00204081u : 0x00008001u;
        const u32 bits = span.bits();
#pragma unroll
        for (int i = 0; i < 4; ++i)
            word[i] = ((bits >> (i * EACH) & ((1u << EACH) - 1)) * spread & ONES) * PIXEL;
    }
};

// Narrow pixels, unsigned, 0 outside a mask.
template <class P>
struct Packed {
    typedef Mask<P> M;
    static constexpr u32 SIGNS = P(-1) < P(0) ? M::ONES << (M::BITS - 1) : 0u;
    u32 word[4];

    __device__ Packed(const Chunk<P>& chunk, const M& mask) {
#pragma unroll
        for (int i = 0; i < 4; ++i) word[i] = (chunk.word[i] ^ SIGNS) & mask.word[i];
    }
    __device__ u32 pixel(int i) const {
        return word[i / M::EACH] >> (i % M::EACH * M::BITS) & M::PIXEL;
    }
    // The same, but the largest there is outside.
    __device__ u32 pixel_or_most(int i, const M& mask) const {
        return (word[i / M::EACH] | ~mask.word[i / M::EACH]) >> (i % M::EACH * M::BITS) & M::PIXEL;
    }
    __device__ u32 sum() const {
        u32 sum = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i)
            sum = sizeof(P) == 1 ? __dp4a(word[i], 0x01010101u, sum)
                                 : __dp2a_lo(word[i], 0x00000101u, sum);
        return sum;
    }
};

template <class P>
struct NarrowSum : NoCentre {
    typedef P Pixel;
    typedef Mask<P> Inside;
    static constexpr int WORDS = 1;
    static constexpr int CHANNELS = 4;
    static constexpr int STEPS = 2;
    u64 total = 0;

    __device__ void add(const Chunk<P>& chunk, const Mask<P>& mask, Nothing) {
        total += Packed<P>(chunk, mask).sum();
    }
    __device__ void merge(const NarrowSum& other) { total += other.total; }
    __device__ void write(u64* word) const { word[0] = total; }
    __device__ static NarrowSum read(const u64* word) {
        NarrowSum sums;
        sums.total = word[0];
        return sums;
    }
};

template <class P>
struct NarrowExtremes : NoCentre {
    typedef P Pixel;
    typedef Mask<P> Inside;
    static constexpr int WORDS = 3;
    static constexpr int CHANNELS = 2;
    static constexpr int STEPS = 1;
    u64 total = 0;
    u32 least = ALL, most = 0;

    __device__ void add(const Chunk<P>& chunk, const Mask<P>& mask, Nothing) {
        const Packed<P> packed(chunk, mask);
#pragma unroll
        for (int i = 0; i < Chunk<P>::SIZE; ++i) {
            least = least_of(least, packed.pixel_or_most(i, mask));
            most = most_of(most, packed.pixel(i));
        }
        total += packed.sum();
    }
    __device__ void merge(const NarrowExtremes& other) {
        total += other.total;
        least = least_of(least, other.least);
        most = most_of(most, other.most);
    }
    __device__ void write(u64* word) const {
        word[0] = total;
        word[1] = least == ALL ? ~0ull : least;  // of no pixel at all
        word[2] = most;
    }
    __device__ static NarrowExtremes read(const u64* word) {
        NarrowExtremes sums;
        sums.total = word[0];
        sums.least = (u32)word[1];
        sums.most = (u32)word[2];
        return sums;
    }
};

template <class P>
struct NarrowFull : NoCentre {
    typedef P Pixel;
    typedef Mask<P> Inside;
    static constexpr int WORDS = 9;
    static constexpr int CHANNELS = 2;
    static constexpr int STEPS = 1;
    u64 total = 0;
    Wide squares, cubes, fourths;
    u32 least = ALL, most = 0;

    __device__ void add(const Chunk<P>& chunk, const Mask<P>& mask, Nothing) {
        const Packed<P> packed(chunk, mask);
        // Over the pixels of a chunk none of these overflows; the carries of Wide in every pixel
        // would cost half as much again.
        u64 square_sum = 0, cube_sum = 0, fourth_low = 0, fourth_high = 0;
#pragma unroll
        for (int i = 0; i < Chunk<P>::SIZE; ++i) {
            const u32 x = packed.pixel(i);
            const u32 square = x * x;
            const u64 fourth = (u64)square * square;
            square_sum += square;
            cube_sum += (u64)square * x;
            fourth_low += (u32)fourth;
            fourth_high += fourth >> 32;
            least = least_of(least, packed.pixel_or_most(i, mask));
            most = most_of(most, x);
        }
        total += packed.sum();
        squares.add(square_sum);
        cubes.add(cube_sum);
        fourth_high += fourth_low >> 32;
        fourths.add(fourth_high << 32 | (fourth_low & ALL));
        fourths.high += fourth_high >> 32;
    }
    __device__ void merge(const NarrowFull& other) {
        total += other.total;
        squares.add(other.squares);
        cubes.add(other.cubes);
        fourths.add(other.fourths);
        least = least_of(least, other.least);
        most = most_of(most, other.most);
    }
    __device__ void write(u64* word) const {
        word[0] = total;
        word[1] = squares.low;
        word[2] = squares.high;
        word[3] = cubes.low;
        word[4] = cubes.high;
        word[5] = fourths.low;
        word[6] = fourths.high;
        word[7] = least == ALL ? ~0ull : least;  // of no pixel at all
        word[8] = most;
    }
    __device__ static NarrowFull read(const u64* word) {
        NarrowFull sums;
        sums.total = word[0];
        sums.squares.low = word[1];
        sums.squares.high = word[2];
        sums.cubes.low = word[3];
        sums.cubes.high = word[4];
        sums.fourths.low = word[5];
        sums.fourths.high = word[6];
        sums.least = (u32)word[7];
        sums.most = (u32)word[8];
        return sums;
    }
};

template <class P>
struct WideSum : NoCentre {
    typedef P Pixel;
    typedef Span Inside;
    static constexpr int WORDS = 2;
    static constexpr int CHANNELS = 4;
    static constexpr int STEPS = 2;
    Wide total;

    __device__ void add(const Chunk<P>& chunk, Span span, Nothing) {
#pragma unroll
        for (int i = 0; i < Chunk<P>::SIZE; ++i)
            total.add(span.has(i) ? unsigned_of(chunk.pixel[i]) : 0ull);
    }
    __device__ void merge(const WideSum& other) { total.add(other.total); }
    __device__ void write(u64* word) const {
        word[0] = total.low;
        word[1] = total.high;
    }
    __device__ static WideSum read(const u64* word) {
        WideSum sums;
        sums.total.low = word[0];
        sums.total.high = word[1];
        return sums;
    }
};

template <class P>
struct WideExtremes : NoCentre {
    typedef P Pixel;
    typedef Span Inside;
    static constexpr int WORDS = 4;
    static constexpr int CHANNELS = 2;
    static constexpr int STEPS = 1;
    Wide total;
    u64 least = ~0ull, most = 0;

    __device__ void add(const Chunk<P>& chunk, Span span, Nothing) {
#pragma unroll
        for (int i = 0; i < Chunk<P>::SIZE; ++i) {
            const u64 x = unsigned_of(chunk.pixel[i]);
            total.add(span.has(i) ? x : 0ull);
            least = least_of(least, span.has(i) ? x : ~0ull);
            most = most_of(most, span.has(i) ? x : 0ull);
        }
    }
    __device__ void merge(const WideExtremes& other) {
        total.add(other.total);
        least = least_of(least, other.least);
        most = most_of(most, other.most);
    }
    __device__ void write(u64* word) const {
        word[0] = total.low;
        word[1] = total.high;
        word[2] = least;
        word[3] = most;
    }
    __device__ static WideExtremes read(const u64* word) {
        WideExtremes sums;
        sums.total.low = word[0];
        sums.total.high = word[1];
        sums.least = word[2];
        sums.most = word[3];
        return sums;
    }
};

// SKIP leaves NaN out.
template <class P, bool SKIP>
struct RealSum : NoCentre {
    typedef P Pixel;
    typedef Span Inside;
    static constexpr int WORDS = 2;
    static constexpr int CHANNELS = 4;
    static constexpr int STEPS = 2;
    double total = 0;
    u64 count = 0;

    __device__ void add(const Chunk<P>& chunk, Span span, Nothing) {
#pragma unroll
        for (int i = 0; i < Chunk<P>::SIZE; ++i) {
            const double x = chunk.pixel[i];
            const bool counts = span.has(i) && !(SKIP && x != x);
            total += counts ? x : 0.0;
            count += counts;
        }
    }
    __device__ void merge(const RealSum& other) {
        total += other.total;
        count += other.count;
    }
    __device__ void write(u64* word) const {
        word[0] = bits_of(total);
        word[1] = bits_of((double)count);
    }
    __device__ static RealSum read(const u64* word) {
        RealSum sums;
        sums.total = double_of(word[0]);
        sums.count = (u64)double_of(word[1]);
        return sums;
    }
};

template <class P, bool SKIP>
struct RealExtremes : NoCentre {
    typedef P Pixel;
    typedef Span Inside;
    static constexpr int WORDS = 4;
    static constexpr int CHANNELS = 2;
    static constexpr int STEPS = 1;
    RealSum<P, SKIP> sum;
    double least = double_of(0x7FF0000000000000ull), most = double_of(0xFFF0000000000000ull);

    __device__ void add(const Chunk<P>& chunk, Span span, Nothing none) {
        sum.add(chunk, span, none);
#pragma unroll
        for (int i = 0; i < Chunk<P>::SIZE; ++i) {
            const double x = chunk.pixel[i];
            const bool counts = span.has(i) && !(SKIP && x != x);
            least = counts ? least_of(x, least) : least;
            most = counts ? most_of(x, most) : most;
        }
    }
    __device__ void merge(const RealExtremes& other) {
        sum.merge(other.sum);
        least = least_of(other.least, least);
        most = most_of(other.most, most);
    }
    __device__ void write(u64* word) const {
        sum.write(word);
        word[2] = bits_of(least);
        word[3] = bits_of(most);
    }
    __device__ static RealExtremes read(const u64* word) {
        RealExtremes sums;
        sums.sum = RealSum<P, SKIP>::read(word);
        sums.least = double_of(word[2]);
        sums.most = double_of(word[3]);
        return sums;
    }
};

struct PowerSums {
    static constexpr int WORDS = 4;
    static constexpr int CHANNELS = 2;
    static constexpr int STEPS = 1;
    double power[4] = {0, 0, 0, 0};

    __device__ void add_distance(double d) {
        const double square = d * d;
        power[0] += d;
        power[1] += square;
        power[2] += square * d;
        power[3] += square * square;
    }
    __device__ void merge(const PowerSums& other) {
        for (int i = 0; i < 4; ++i) power[i] += other.power[i];
    }
    __device__ void write(u64* word) const {
        for (int i = 0; i < 4; ++i) word[i] = bits_of(power[i]);
    }
    __device__ static PowerSums read(const u64* word) {
        PowerSums sums;
        for (int i = 0; i < 4; ++i) sums.power[i] = double_of(word[i]);
        return sums;
    }
};

template <class P>
struct WidePowers : PowerSums {
    typedef P Pixel;
    typedef Span Inside;
    typedef u64 Centre;
    __device__ static u64 centre(const u64* pivot, i64 place) { return pivot[place]; }
    __device__ void add(const Chunk<P>& chunk, Span span, u64 centre) {
#pragma unroll
        for (int i = 0; i < Chunk<P>::SIZE; ++i) {
            const u64 x = unsigned_of(chunk.pixel[i]);
            const double d = x >= centre ? (double)(x - centre) : -(double)(centre - x);
            add_distance(span.has(i) ? d : 0.0);
        }
    }
};

template <class P, bool SKIP>
struct RealPowers : PowerSums {
    typedef P Pixel;
    typedef Span Inside;
    typedef double Centre;
    __device__ static double centre(const u64* pivot, i64 place) {
        return double_of(pivot[place]);
    }
    __device__ void add(const Chunk<P>& chunk, Span span, double centre) {
#pragma unroll
        for (int i = 0; i < Chunk<P>::SIZE; ++i) {
            const double x = chunk.pixel[i];
            add_distance(span.has(i) && !(SKIP && x != x) ? x - centre : 0.0);
        }
    }
};

// Sums of every part, `CHANNELS` channels a warp (blockIdx.y says which).
//
// planes: channels `pitch` pixels apart, each on a border of 16 bytes.
// start, length: the runs, sorted by instance; first: where each part's begin, and the end.
// slot: whose each part is; pivot: (slots, channels), where the sums have a centre.
// out: (parts, channels, words).
template <class Sums>
__global__ void __launch_bounds__(128)
    reduce(const typename Sums::Pixel* planes, i64 pitch, int channels, const i64* start,
           const int* length, const int* first, const int* slot, int parts, const u64* pivot,
           u64* out) {
    typedef Chunk<typename Sums::Pixel> Pixels;
    constexpr int CHANNELS = Sums::CHANNELS;
    constexpr int STEPS = Sums::STEPS;
    const i64 part = warp_of();
    if (part >= parts) return;
    const int lane = lane_of();
    // Each lane carries a run: the chunk it begins in, the pixels of that chunk before it, and
    // where it ends, counted from the chunk's first pixel.
    const int own = first[part] + lane;
    const bool has_run = own < first[part + 1];
    const i64 from = has_run ? start[own] : 0;
    const u32 my_chunk = (u32)(from / Pixels::SIZE);
    const u32 my_skip = from % Pixels::SIZE;
    const u32 my_end = has_run ? my_skip + length[own] : 0;
    const int my_chunks = (my_end + Pixels::SIZE - 1) / Pixels::SIZE;
    // Where its chunks begin among those of the part.
    int over = my_chunks;
#pragma unroll
    for (int offset = 1; offset < WARP; offset *= 2) {
        const int below = __shfl_up_sync(ALL, over, offset);
        over += lane >= offset ? below : 0;
    }
    const int my_begin = over - my_chunks;
    const int chunks = __shfl_sync(ALL, over, WARP - 1);

    const int channel = blockIdx.y * CHANNELS;
    const int here = least_of(CHANNELS, channels - channel);
    Sums sums[CHANNELS];
    typename Sums::Centre centre[CHANNELS];
    const Pixels* plane[CHANNELS];
#pragma unroll
    for (int k = 0; k < CHANNELS; ++k) {
        // Beyond the last channel nothing is read and nothing written.
        const i64 c = channel + least_of(k, here - 1);
        centre[k] = Sums::centre(pivot, (i64)slot[part] * channels + c);
        plane[k] = reinterpret_cast<const Pixels*>(planes + c * pitch);
    }
    int begun = 0;
    for (int base = 0; base < chunks; base += STEPS * WARP) {
        // What all steps load is on its way before the first is added.
        Pixels pixels[STEPS][CHANNELS];
        Span span[STEPS];
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            // Lane by lane, the chunks from `left` on; a bit tells where another run begins.
            const int left = base + step * WARP;
            const u32 ahead = my_begin - left;
            const u32 heads = any_of(my_chunks && ahead < WARP ? 1u << ahead : 0u);
            const int run = begun + __popc(heads & (ALL >> (WARP - 1 - lane))) - 1;
            begun += __popc(heads);
            const int piece = left + lane - __shfl_sync(ALL, my_begin, run);
            const u32 chunk = __shfl_sync(ALL, my_chunk, run) + piece;
            const u32 bounds = __shfl_sync(ALL, my_end << 8 | my_skip, run);
            const int before = piece * Pixels::SIZE;
            span[step] = {most_of((int)(bounds & 0xFF) - before, 0),
                          least_of((int)(bounds >> 8) - before, (int)Pixels::SIZE)};
            if (left + lane >= chunks) {
                span[step] = {0, 0};
                continue;
            }
#pragma unroll
            for (int k = 0; k < CHANNELS; ++k)
                if (k < here) pixels[step][k] = plane[k][chunk];
        }
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const typename Sums::Inside inside(span[step]);
#pragma unroll
            for (int k = 0; k < CHANNELS; ++k) sums[k].add(pixels[step][k], inside, centre[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < CHANNELS; ++k) {
#pragma unroll
        for (int offset = WARP / 2; offset > 0; offset /= 2)
            sums[k].merge(from_above(sums[k], offset));
        if (lane == 0 && k < here)
            sums[k].write(out + (part * channels + channel + k) * Sums::WORDS);
    }
}

// Sums of every instance from those of its parts, in their order: one thread each and channel.
//
// begin: where each slot's parts begin, and the end.
template <class Sums>
__global__ void __launch_bounds__(128)
    merge_parts(const u64* partial, const int* begin, int slots, int channels, u64* out) {
    const i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= (i64)slots * channels) return;
    const i64 slot = place / channels, channel = place % channels;
    Sums sums;
    for (i64 part = begin[slot]; part < begin[slot + 1]; ++part)
        sums.merge(Sums::read(partial + (part * channels + channel) * Sums::WORDS));
    sums.write(out + place * Sums::WORDS);
}

// Stretches of pixels into windows: reference.gather, sixteen lanes a stretch.
template <class Word>
__global__ void __launch_bounds__(128)
    gather(const Word* planes, i64 pitch, int channels, const i64* source, const i64* target,
           const i64* length, i64 stretches, i64 channel_stride, Word* out) {
    const i64 stretch = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / COPIERS;
    if (stretch >= stretches) return;
    const Word* from = planes + source[stretch];
    Word* to = out + target[stretch];
    const i64 pixels = length[stretch];
    for (i64 p = threadIdx.x % COPIERS; p < pixels; p += COPIERS) {
#pragma unroll 4
        for (int c = 0; c < channels; ++c) to[c * channel_stride + p] = from[c * pitch + p];
    }
}

template <class Label>
__device__ inline bool begins(const Label* row, int x) {
    return row[x] != 0 && (x == 0 || row[x - 1] != row[x]);
}

template <class Label>
__device__ inline bool ends(const Label* row, int x, int width) {
    return row[x] != 0 && (x == width - 1 || row[x + 1] != row[x]);
}

// Runs of each row of labels, a warp a row.
template <class Label>
__global__ void __launch_bounds__(128)
    count_runs(const Label* labels, int rows, int width, int* count) {
    const i64 row = warp_of();
    if (row >= rows) return;
    const Label* here = labels + row * width;
    int runs = 0;
    for (int x = lane_of(); x < width; x += WARP) runs += begins(here, x);
    for (int offset = WARP / 2; offset > 0; offset /= 2) runs += from_above(runs, offset);
    if (lane_of() == 0) count[row] = runs;
}

// The runs themselves, in the order of the pixels: where each starts and stops in a plane of the
// given strides, and its label. `offset` says where those of a row begin.
template <class Label>
__global__ void __launch_bounds__(128)
    find_runs(const Label* labels, int rows, int width, int height, i64 row_stride,
              i64 plane_stride, const i64* offset, i64* start, i64* stop, u64* value) {
    const i64 row = warp_of();
    if (row >= rows) return;
    const Label* here = labels + row * width;
    const i64 base = row / height * plane_stride + row % height * row_stride;
    const u32 below = (1u << lane_of()) - 1;
    i64 begun = offset[row], ended = offset[row];
    for (int left = 0; left < width; left += WARP) {
        const int x = left + lane_of();
        const bool is_first = x < width && begins(here, x);
        const bool is_last = x < width && ends(here, x, width);
        const u32 firsts = __ballot_sync(ALL, is_first);
        const u32 lasts = __ballot_sync(ALL, is_last);
        if (is_first) {
            const i64 run = begun + __popc(firsts & below);
            start[run] = base + x;
            value[run] = here[x];
        }
        if (is_last) stop[ended + __popc(lasts & below)] = base + x + 1;
        begun += __popc(firsts);
        ended += __popc(lasts);
    }
}

// Chunks as Blosc stores them: blocks of items whose bits may be shuffled, each block cut into
// streams, each stream as it is or in the LZ4 block format.

typedef unsigned char u8;

// Where a stream lies in the encoded chunk, and where its bytes belong.
struct Stream {
    u32 source, size, target, length;
};

// The same bytes elsewhere, by a warp.
__device__ inline void copy(const u8* from, u8* to, u32 size) {
#pragma unroll 8
    for (u32 i = lane_of(); i < size; i += WARP) to[i] = from[i];
}

// Bytes that were written before, `distance` back; what is copied may overlap itself.
__device__ inline void repeat(u8* to, u32 distance, u32 size) {
    const u8* from = to - distance;
    if (distance >= size) {
        copy(from, to, size);
    } else {
        for (u32 i = lane_of(); i < size; i += WARP) to[i] = from[i % distance];
    }
}

// A stream in the LZ4 block format, read by all lanes of a warp together. Whatever it says, nothing
// is read or written beyond it.
struct Lz4 {
    const u8* from;
    const u8* end;
    bool whole = true;

    __device__ Lz4(const u8* source, u32 size) : from(source), end(source + size) {}
    __device__ u32 byte() {
        if (from < end) return *from++;
        whole = false;
        return 0;
    }
    // Four bits of the token, and as many bytes more as are full.
    __device__ u32 length(u32 bits, u32 most) {
        u32 length = bits;
        if (bits == 15) {
            u32 more;
            do {
                more = byte();
                length += more;
            } while (more == 255 && length <= most);
        }
        return length;
    }
    // Whether the stream holds `size` bytes, which are then at `to`.
    __device__ bool decode(u8* to, u32 size) {
        u32 done = 0;
        for (;;) {
            const u32 token = byte();
            const u32 literals = length(token >> 4, size);
            if (!whole || literals > size - done || literals > end - from) return false;
            copy(from, to + done, literals);
            from += literals;
            done += literals;
            if (from == end) return done == size;
            u32 distance = byte();
            distance |= byte() << 8;
            const u32 match = length(token & 15, size) + 4;
            if (!whole || distance == 0 || distance > done || match > size - done) return false;
            __syncwarp();
            repeat(to + done, distance, match);
            __syncwarp();
            done += match;
        }
    }
};

// Decodes the streams of a chunk, a warp each. `failed` becomes 1 where one is no such stream.
__global__ void __launch_bounds__(128)
    unpack(const u8* encoded, const Stream* streams, int count, u8* decoded, int* failed) {
    const i64 number = warp_of();
    if (number >= count) return;
    const Stream stream = streams[number];
    const u8* from = encoded + stream.source;
    u8* to = decoded + stream.target;
    if (stream.size == stream.length) {
        copy(from, to, stream.length);
    } else if (!Lz4(from, stream.size).decode(to, stream.length)) {
        *failed = 1;
    }
}

// The bits of eight bytes, seen from the other side: bit i of byte k is bit k of byte i.
__device__ inline u64 transposed(u64 bits) {
    u64 change = (bits ^ bits >> 7) & 0x00AA00AA00AA00AAull;
    bits ^= change ^ change << 7;
    change = (bits ^ bits >> 14) & 0x0000CCCC0000CCCCull;
    bits ^= change ^ change << 14;
    change = (bits ^ bits >> 28) & 0x00000000F0F0F0F0ull;
    return bits ^ change ^ change << 28;
}

template <class Item>
struct alignas(8 * sizeof(Item) < 16 ? 8 * sizeof(Item) : 16) Eight {
    Item item[8];
};

// Undoes the shuffling of bits in every block: a plane for each bit of an item becomes the items,
// 32 of them a thread. `size` and `block` are in items, and multiples of 32.
template <class Item>
__global__ void __launch_bounds__(128)
    restore_bits(const u32* shuffled, i64 size, i64 block, Eight<Item>* out) {
    constexpr int BYTES = sizeof(Item);
    const i64 first = 32 * ((i64)blockIdx.x * blockDim.x + threadIdx.x);
    if (first >= size) return;
    const i64 begin = first / block * block;
    const i64 words = least_of(block, size - begin) / 32;
    const u32* from = shuffled + begin / 32 * 8 * BYTES + (first - begin) / 32;
    u32 plane[8 * BYTES];
#pragma unroll
    for (int i = 0; i < 8 * BYTES; ++i) plane[i] = from[i * words];
#pragma unroll
    for (int eight = 0; eight < 4; ++eight) {
        u64 bytes[BYTES];
#pragma unroll
        for (int k = 0; k < BYTES; ++k) {
            u64 bits = 0;
#pragma unroll
            for (int i = 0; i < 8; ++i)
                bits |= (u64)(plane[8 * k + i] >> (8 * eight) & 0xFF) << (8 * i);
            bytes[k] = transposed(bits);
        }
        Eight<Item> items;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            u64 item = 0;
#pragma unroll
            for (int k = 0; k < BYTES; ++k) item |= (bytes[k] >> (8 * i) & 0xFF) << (8 * k);
            items.item[i] = (Item)item;
        }
        out[first / 8 + eight] = items;
    }
}

// Undoes the shuffling of bytes in every block: a plane for each byte of an item becomes the items,
// one a thread.
template <class Item>
__global__ void __launch_bounds__(128)
    restore_bytes(const u8* shuffled, i64 size, i64 block, Item* out) {
    const i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    const i64 begin = place / block * block;
    const i64 items = least_of(block, size - begin);
    const u8* from = shuffled + begin * sizeof(Item) + (place - begin);
    u64 item = 0;
#pragma unroll
    for (int k = 0; k < (int)sizeof(Item); ++k) item |= (u64)from[k * items] << (8 * k);
    out[place] = (Item)item;
}
