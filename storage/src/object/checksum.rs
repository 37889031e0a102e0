//! Joining CRC-32Cs, so that the checksum of a whole object follows from those of its parts without reading it again.
//!
//! A CRC is a remainder of polynomials over two elements: appending `n` zero bytes multiplies it by x^(8n). The powers
//! x^(2^k) are tabled, so the multiplication takes one step for each bit that is set in the length.

/// The CRC-32C (Castagnoli) polynomial, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `POWERS[k]` is x^(2^k) modulo the polynomial.
const POWERS: [u32; 64] = powers();

const fn powers() -> [u32; 64] {
    let mut table = [0; 64];
    let mut power = 1 << 30; // x^1
    let mut k = 0;
    while k < table.len() {
        table[k] = power;
        power = multiply(power, power);
        k += 1;
    }
    table
}

/// The product of two polynomials modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 0 { b >> 1 } else { (b >> 1) ^ POLYNOMIAL };
        bit >>= 1;
    }
    product
}

/// The CRC-32C of two byte strings one after the other, from that of each and the length of the second.
pub(super) fn join(first: u32, second: u32, second_bytes: usize) -> u32 {
    let mut shifted = first;
    let mut remaining = second_bytes;
    let mut k = 3; // 8 bits in a byte: x^(8n) begins at x^(2^3)
    while remaining != 0 {
        if remaining & 1 == 1 {
            shifted = multiply(POWERS[k], shifted);
        }
        remaining >>= 1;
        k += 1;
    }
    shifted ^ second
}
