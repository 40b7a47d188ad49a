//! MD5's compression function, over one message or over many at once.
//!
//! One message is a chain of dependent steps, in which most of a core stands idle. Independent messages fill it: each takes
//! a lane of the vector registers, and all go through the steps together, at little more than the price of one. Which
//! vectors there are is found out when the program runs; the chains that come out are the same everywhere, which the tests
//! check against the `md-5` crate for each of the ways. Callers are `Message`, for a message of its own, and the pool.

#![allow(clippy::inline_always, reason = "only what is inlined into the dispatched function has its vectors")]

use std::hint::black_box;

use fearless_simd::{
    Bytes as _, Level, Simd, SimdBase as _, SimdFrom as _, SimdInt, dispatch, u8x32, u8x64, u32x4, u32x8, u32x16,
};

/// Bytes that the compression function takes at a time.
pub(super) const BLOCK_LEN: usize = 64;

/// One such block.
pub(super) type Block = [u8; BLOCK_LEN];

/// What a message has come to after some blocks.
pub(super) type Chain = [u32; 4];

/// Most messages that go through the steps together.
pub(super) const LANES_MAX: usize = 16;

/// One summand a step, from the sine.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// One lane of 32 bits for each message.
trait Words<S: Simd>: SimdInt<S, Element = u32> {}
impl<S: Simd, V: SimdInt<S, Element = u32>> Words<S> for V {}

#[inline(always)]
fn step<S: Simd, V: Words<S>>(mixed: V, rotate: u32, a: V, b: V, word: V, sine: u32) -> V {
    let sum = (word + sine + a) + mixed;
    ((sum << rotate) | (sum >> (32 - rotate))) + b
}

/// Sixteen steps: with these summands, `mix` of three, four rotations in turn, and an order of the words, given as the first
/// one and a stride.
#[inline(always)]
fn round<S: Simd, V: Words<S>>(
    [mut a, mut b, mut c, mut d]: [V; 4],
    words: &[V; 16],
    sines: &[u32],
    mix: impl Fn(V, V, V) -> V,
    rotate: [u32; 4],
    (first, stride): (usize, usize),
) -> [V; 4] {
    let word = |at: usize| words[(first + stride * at) % 16];
    for quad in 0..4 {
        let at = 4 * quad;
        a = step(mix(b, c, d), rotate[0], a, b, word(at), sines[at]);
        d = step(mix(a, b, c), rotate[1], d, a, word(at + 1), sines[at + 1]);
        c = step(mix(d, a, b), rotate[2], c, d, word(at + 2), sines[at + 2]);
        b = step(mix(c, d, a), rotate[3], b, c, word(at + 3), sines[at + 3]);
    }
    [a, b, c, d]
}

#[inline(always)]
fn rounds<S: Simd, V: Words<S>>(chain: &mut [V; 4], words: &[V; 16], sines: &[u32; 64]) {
    let mut now = *chain;
    now = round(now, words, &sines[..16], |x, y, z| ((y ^ z) & x) ^ z, [7, 12, 17, 22], (0, 1));
    now = round(now, words, &sines[16..32], |x, y, z| ((x ^ y) & z) ^ y, [5, 9, 14, 20], (1, 5));
    now = round(now, words, &sines[32..48], |x, y, z| x ^ (y ^ z), [4, 11, 16, 23], (5, 3));
    now = round(now, words, &sines[48..], |x, y, z| y ^ (x | !z), [6, 10, 15, 21], (0, 7));
    *chain = std::array::from_fn(|word| chain[word] + now[word]);
}

/// Turns rows (a message each) into columns (a word each): one perfect shuffle for each doubling of the lanes.
#[inline(always)]
fn transpose<S: Simd, V: Words<S>, const LANES: usize>(mut rows: [V; LANES]) -> [V; LANES] {
    for _ in 0..LANES.ilog2() {
        let shuffled = std::array::from_fn(|at| {
            let (upper, lower) = (rows[at / 2], rows[at / 2 + LANES / 2]);
            if at % 2 == 0 { upper.zip_low(lower) } else { upper.zip_high(lower) }
        });
        rows = shuffled;
    }
    rows
}

#[inline(always)]
fn run<S: Simd, V: Words<S>, const LANES: usize>(
    simd: S,
    chains: &mut [Chain],
    messages: &[&[Block]],
    load: impl Fn(&Block, usize) -> V,
) {
    let count = chains.len();
    let mut chain: [V; 4] =
        std::array::from_fn(|word| V::from_fn(simd, |lane| if lane < count { chains[lane][word] } else { 0 }));
    // A lane without a message computes what the first one computes.
    let rows: [&[Block]; LANES] = std::array::from_fn(|lane| messages[if lane < count { lane } else { 0 }]);
    // A constant that the compiler sees it adds last, in the chain of dependent steps; one that it does not, it adds before.
    let sines = black_box(&SINES);
    for (block, _) in rows[0].iter().enumerate() {
        let mut words = [chain[0]; 16];
        for piece in 0..16 / LANES {
            let columns = transpose::<S, V, LANES>(std::array::from_fn(|lane| load(&rows[lane][block], piece)));
            words[piece * LANES..(piece + 1) * LANES].copy_from_slice(&columns);
        }
        rounds(&mut chain, &words, sines);
    }
    for (lane, out) in chains.iter_mut().enumerate() {
        *out = std::array::from_fn(|word| chain[word].as_slice()[lane]);
    }
}

#[inline(always)]
fn sixteen<S: Simd>(simd: S, chains: &mut [Chain], messages: &[&[Block]]) {
    run::<S, u32x16<S>, 16>(simd, chains, messages, |block, _| u32x16::from_bytes(u8x64::from_slice(simd, block)));
}

#[inline(always)]
fn eight<S: Simd>(simd: S, chains: &mut [Chain], messages: &[&[Block]]) {
    run::<S, u32x8<S>, 8>(simd, chains, messages, |block, piece| {
        u32x8::from_bytes(u8x32::from_slice(simd, &block[piece * 32..][..32]))
    });
}

/// One message in all four lanes of the shortest vectors: where they can rotate and mix in one instruction, the chain of
/// dependent steps is shorter than in the general registers.
#[inline(always)]
fn one<S: Simd>(simd: S, chain: &mut Chain, message: &[Block]) {
    let mut wide: [u32x4<S>; 4] = std::array::from_fn(|word| u32x4::simd_from(simd, chain[word]));
    let sines = black_box(&SINES);
    for block in message {
        let (words, _) = block.as_chunks();
        rounds(&mut wide, &std::array::from_fn(|at| u32x4::simd_from(simd, u32::from_le_bytes(words[at]))), sines);
    }
    *chain = std::array::from_fn(|word| wide[word].as_slice()[0]);
}

/// The vectors of this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lanes(Level);

impl Lanes {
    /// What this machine has.
    pub(super) fn detect() -> Self {
        Self(Level::new())
    }

    /// Messages that it pays to run together, at most. From two on it pays; on other processors nobody has measured.
    pub(super) fn count(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) | Level::Avx2(_) => LANES_MAX,
            #[cfg(target_arch = "x86_64")]
            Level::Sse4_2(_) => LANES_MAX / 2,
            _ => 1,
        }
    }

    /// Advances each chain over the blocks of its message. There are as many messages as chains, at most
    /// [`Lanes::count`], and all have as many blocks as the first.
    pub(super) fn advance(self, chains: &mut [Chain], messages: &[&[Block]]) {
        match chains {
            [] => {}
            [chain] => advance_one(chain, messages[0]),
            _ if chains.len() <= LANES_MAX / 2 => dispatch!(self.0, simd => eight(simd, chains, messages)),
            _ => dispatch!(self.0, simd => sixteen(simd, chains, messages)),
        }
    }
}

/// Advances a chain over blocks.
pub(super) fn advance_one(chain: &mut Chain, blocks: &[Block]) {
    match Level::new() {
        #[cfg(target_arch = "x86_64")]
        level @ Level::Avx512(_) => dispatch!(level, simd => one(simd, chain, blocks)),
        _ => md5::block_api::compress(chain, blocks),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every way that this machine can go, with its name.
    pub(in super::super) fn ways() -> Vec<(&'static str, Lanes)> {
        let level = Level::new();
        let mut ways = vec![("detected", Lanes(level))];
        #[cfg(target_arch = "x86_64")]
        {
            ways.extend(level.as_avx512().map(|it| ("avx512", Lanes(Level::Avx512(it)))));
            ways.extend(level.as_avx2().map(|it| ("avx2", Lanes(Level::Avx2(it)))));
            ways.extend(level.as_sse4_2().map(|it| ("sse4.2", Lanes(Level::Sse4_2(it)))));
        }
        ways
    }

    fn message(seed: u64, blocks: usize) -> Vec<Block> {
        let word = |at: u64| seed.wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ at;
        (0..blocks as u64).map(|n| std::array::from_fn(|at| word(n * 64 + at as u64).to_le_bytes()[5])).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_way_comes_to_what_the_reference_says(seed in any::<u64>(), count in 1..=LANES_MAX, blocks in 0usize..40) {
            let messages: Vec<_> = (0..count as u64).map(|n| message(seed ^ (n << 32), blocks)).collect();
            let begun: Vec<Chain> = (0..count as u32).map(|n| [n, !n, seed as u32, n.rotate_right(7)]).collect();
            let mut expected = begun.clone();
            expected.iter_mut().zip(&messages).for_each(|(chain, blocks)| md5::block_api::compress(chain, blocks));
            for (name, lanes) in ways() {
                let (mut found, refs) = (begun.clone(), messages.iter().map(Vec::as_slice).collect::<Vec<_>>());
                lanes.advance(&mut found, &refs);
                prop_assert_eq!(&found, &expected, "{}", name);
            }
            let mut alone = begun[0];
            advance_one(&mut alone, &messages[0]);
            prop_assert_eq!(alone, expected[0]);
        }
    }
}
