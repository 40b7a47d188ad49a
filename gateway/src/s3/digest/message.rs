//! MD5 of a message that comes in pieces.
//!
//! A message is cut into blocks; what is left of a piece waits for the next one. The blocks of a piece can be run apart
//! from it, so that the pool of digests can run those of several messages together: [`Message::begin`], the blocks,
//! [`Message::end`]. `Digester` is the caller.

use super::lanes::{BLOCK_LEN, Block, Chain, advance_one};

/// A message that is not at its end.
#[derive(Clone)]
pub(super) struct Message {
    /// What the blocks so far have come to.
    pub(super) chain: Chain,
    /// Bytes of this message so far.
    len: u64,
    /// The bytes behind the last whole block, `len % BLOCK_LEN` of them.
    rest: Block,
}

impl Default for Message {
    fn default() -> Self {
        Self { chain: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476], len: 0, rest: [0; BLOCK_LEN] }
    }
}

impl Message {
    /// Adds bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let taken = self.begin(bytes);
        let (blocks, rest) = bytes[taken..].as_chunks();
        advance_one(&mut self.chain, blocks);
        self.end(blocks.len(), rest);
    }

    /// Takes from the front of `bytes` what completes a block that the last piece left open; says how many bytes these
    /// are. What follows begins with a whole block or is a rest.
    pub(super) fn begin(&mut self, bytes: &[u8]) -> usize {
        let open = self.open();
        if open == 0 {
            return 0;
        }
        let taken = bytes.len().min(BLOCK_LEN - open);
        self.rest[open..open + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken as u64;
        if self.open() == 0 {
            advance_one(&mut self.chain, &[self.rest]);
        }
        taken
    }

    /// The chain has been advanced over `blocks`, and this is what follows them: less than a block.
    pub(super) fn end(&mut self, blocks: usize, rest: &[u8]) {
        self.len += (blocks * BLOCK_LEN + rest.len()) as u64;
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// The digest of all bytes.
    pub(super) fn finish(mut self) -> [u8; 16] {
        let bits = self.len.wrapping_mul(8).to_le_bytes();
        // A one, then zeros up to where the length stands at the end of a block.
        let zeros = (2 * BLOCK_LEN - 1 - bits.len() - self.open()) % BLOCK_LEN;
        let mut padding = [0; 2 * BLOCK_LEN];
        padding[0] = 0x80;
        padding[1 + zeros..][..bits.len()].copy_from_slice(&bits);
        self.update(&padding[..1 + zeros + bits.len()]);
        let mut digest = [0; 16];
        digest.as_chunks_mut().0.iter_mut().zip(self.chain).for_each(|(out, word)| *out = word.to_le_bytes());
        digest
    }

    fn open(&self) -> usize {
        (self.len % BLOCK_LEN as u64) as usize
    }
}

/// MD5 of bytes in memory.
#[must_use]
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    let mut message = Message::default();
    message.update(bytes);
    message.finish()
}

#[cfg(test)]
mod tests {
    use md5::Digest as _;
    use proptest::prelude::*;

    use super::super::hex;
    use super::*;

    #[test]
    fn the_test_suite_of_rfc_1321() {
        let digits = "1234567890".repeat(8);
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        for (text, expected) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("a", "0cc175b9c0f1b6a831c399e269772661"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
            (letters, "d174ab98d277d9f5a5611c2c9f419d9f"),
            (&digits, "57edf4a22be3c955ac49da2e2107b67a"),
        ] {
            assert_eq!(hex(&md5(text.as_bytes())), expected, "{text}");
        }
    }

    #[test]
    fn every_length_around_a_block_is_padded_right() {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(300).collect();
        for len in 0..bytes.len() {
            assert_eq!(md5(&bytes[..len])[..], md5::Md5::digest(&bytes[..len])[..], "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_come_to_the_same(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let mut message = Message::default();
            for piece in &pieces {
                message.update(piece);
            }
            prop_assert_eq!(&message.finish()[..], &md5::Md5::digest(pieces.concat())[..]);
        }
    }
}
