// The portable layout of low-bit codes: words of a few bytes, several codes a word.
//
// A row of codes is ceil(columns / codes_per_word) words; a word is a little-endian number of bytes_per_word bytes;
// code j of a word is floor(word / levels^j) mod levels. So 4-bit codes are (levels 16, 2 codes, 1 byte), low nibble
// first; 3-bit codes (8, 8, 3), a bit stream, least significant first; ternary ones (3, 5, 1), 1.6 bits each.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace qonnx {

struct CodeLayout {
  uint32_t levels;
  uint32_t codes_per_word;
  uint32_t bytes_per_word;

  size_t row_bytes(size_t columns) const { return (columns + codes_per_word - 1) / codes_per_word * bytes_per_word; }

  // All codes of a word fit in it, and a word fits in 63 bits (the specification computes in int64).
  bool valid() const {
    if (levels < 2 || levels > 65536 || codes_per_word < 1 || bytes_per_word < 1 || bytes_per_word > 7) return false;
    const uint64_t room = uint64_t{1} << (8 * bytes_per_word);
    uint64_t values = 1;
    for (uint32_t j = 0; j < codes_per_word; ++j) {
      if (values > room / levels) return false;
      values *= levels;
    }
    return true;
  }
};

// Decodes a row into one Code (uint8_t or uint16_t) a code.
template <class Code>
static inline void decode_codes(const CodeLayout& layout, const uint8_t* row, size_t columns, Code* codes) {
  for (size_t k = 0; k < columns; row += layout.bytes_per_word) {
    uint64_t word = 0;
    for (uint32_t b = 0; b < layout.bytes_per_word; ++b) word |= static_cast<uint64_t>(row[b]) << (8 * b);
    for (uint32_t j = 0; j < layout.codes_per_word && k < columns; ++j, ++k) {
      codes[k] = static_cast<Code>(word % layout.levels);
      word /= layout.levels;
    }
  }
}

}  // namespace qonnx
