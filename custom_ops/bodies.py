"""Bodies of the operators in ONNX text: the specifications that kernels are tested against."""

_SIZES = """
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  first = Constant <value_ints = [0]> ()
  second = Constant <value_ints = [1]> ()
  third = Constant <value_ints = [2]> ()
  last = Constant <value_ints = [-1]> ()
  columns = Constant <value_int: int = @K> ()
  columns_1 = Unsqueeze (columns, first)
"""

# codes [N, row bytes] -> code [N, code_count]. A word of bytes_per_word bytes, little-endian, holds codes_per_word
# codes; code j is floor(word / levels^j) mod levels. The bytes are summed by MatMul because ONNX Runtime sums int64 in
# ReduceSum as float64, which loses bits of words of 7 bytes. Shapes begin with 0, a copy of N, and follow from
# attributes: with no row at all, nothing could be inferred.
_CODES = """
  byte_values = Constant <value_int = 256> ()
  block = Constant <value_int: int = @block_size> ()
  levels_ = Constant <value_int: int = @levels> ()
  codes_per_word_ = Constant <value_int: int = @codes_per_word> ()
  bytes_per_word_ = Constant <value_int: int = @bytes_per_word> ()
  word_bytes = Unsqueeze (bytes_per_word_, first)
  codes_before = Sub (codes_per_word_, one)
  codes_up = Add (code_count, codes_before)
  words = Div (codes_up, codes_per_word_)
  word_shape = Concat <axis = 0> (first, words, word_bytes)
  by_word = Reshape (codes, word_shape)
  digits = Cast <to = 7> (by_word)
  byte_index = Range (zero, bytes_per_word_, one)
  byte_weight = Pow (byte_values, byte_index)
  byte_weights = Unsqueeze (byte_weight, second)
  word = MatMul (digits, byte_weights)
  code_index = Range (zero, codes_per_word_, one)
  code_weight = Pow (levels_, code_index)
  quotient = Div (word, code_weight)
  by_code = Mod (quotient, levels_)
  codes_of_row = Mul (words, codes_per_word_)
  code_shape = Concat <axis = 0> (first, codes_of_row)
  all_codes = Reshape (by_code, code_shape)
  code = Slice (all_codes, first, code_count, second)
  column = Range (zero, columns, one)
  column_block = Div (column, block)
  scale_32 = Cast <to = 1> (scale)
  scale_by_column = Gather <axis = 1> (scale_32, column_block)
"""

# w = scale · (value[code] − zero_point), float32 [N, K], one scale for each block of k.
LOW_BIT_WEIGHT = f"""{_SIZES}
  code_count = Identity (columns_1)
{_CODES}
  value = Gather <axis = 0> (values, code)
  zero_point_32 = Cast <to = 1> (zero_point)
  scale_shape = Shape (scale_32)
  zero_by_block = Expand (zero_point_32, scale_shape)
  zero_by_column = Gather <axis = 1> (zero_by_block, column_block)
  distance = Sub (value, zero_by_column)
  w = Mul (distance, scale_by_column)
"""

# w[n, j·v … (j+1)·v] = scale · Σ_c vectors[c, code[n, j, c]], float32 [N, K]; vectors [books, levels, v].
_CODEBOOK = f"""{_SIZES}
  books_shape = Shape (vectors)
  book_count = Slice (books_shape, first, second, first)
  vector_length_end = Constant <value_ints = [3]> ()
  vector_length = Slice (books_shape, third, vector_length_end, first)
  codes_of_columns = Mul (columns_1, book_count)
  code_count = Div (codes_of_columns, vector_length)
{_CODES}
  vectors_of_row = Div (columns_1, vector_length)
  book_shape = Concat <axis = 0> (first, vectors_of_row, book_count)
  code_by_book = Reshape (code, book_shape)
  book_count_0 = Squeeze (book_count, first)
  book = Range (zero, book_count_0, one)
  book_begin = Mul (book, levels_)
  row_of_table = Add (code_by_book, book_begin)
  any_length = Constant <value_ints = [-1]> ()
  table_shape = Concat <axis = 0> (any_length, vector_length)
  vector_table = Reshape (vectors, table_shape)
  parts = Gather <axis = 0> (vector_table, row_of_table)
  whole = ReduceSum <keepdims = 0> (parts, third)
  row_shape_of_w = Concat <axis = 0> (first, columns_1)
  unscaled = Reshape (whole, row_shape_of_w)
  w = Mul (unscaled, scale_by_column)
"""

# x rounded to multiples of (largest of its block)/steps: 127 for 8 bits, 127 · 257 for 16, two signed bytes.
_ROUND_X = """
  activation_bits_ = Constant <value_int: int = @activation_bits> ()
  byte_bits = Constant <value_int = 8> ()
  steps_of_a_byte = Constant <value_int = 127> ()
  bytes_before = Sub (byte_values, one)
  activation_bytes = Div (activation_bits_, byte_bits)
  steps_by_bytes = Mul (activation_bytes, byte_values)
  bytes_of_steps = Sub (steps_by_bytes, bytes_before)
  whole_steps = Mul (bytes_of_steps, steps_of_a_byte)
  steps = Cast <to = 1> (whole_steps)
  x_32 = Cast <to = 1> (x)
  x_rows = Shape <end = -1> (x_32)
  columns_up = Add (columns, block)
  columns_last = Sub (columns_up, one)
  blocks = Div (columns_last, block)
  padded = Mul (blocks, block)
  padding = Sub (padded, columns)
  padding_1 = Unsqueeze (padding, first)
  pads = Concat <axis = 0> (first, padding_1)
  x_padded = Pad (x_32, pads, float_zero, last)
  blocks_1 = Unsqueeze (blocks, first)
  block_1 = Unsqueeze (block, first)
  block_shape = Concat <axis = 0> (x_rows, blocks_1, block_1)
  x_blocks = Reshape <allowzero = 1> (x_padded, block_shape)
  x_size = Abs (x_blocks)
  x_largest = ReduceMax <keepdims = 1> (x_size, last)
  tiny = Constant <value_float = 7.888609e-31> ()
  x_safe = Max (x_largest, tiny)
  x_inverse = Div (steps, x_safe)
  x_ratio = Mul (x_blocks, x_inverse)
  x_code = Round (x_ratio)
  x_step = Div (x_safe, steps)
  x_rounded = Mul (x_code, x_step)
  padded_1 = Unsqueeze (padded, first)
  flat_shape = Concat <axis = 0> (x_rows, padded_1)
  x_flat = Reshape <allowzero = 1> (x_rounded, flat_shape)
  x_used = Slice (x_flat, first, columns_1, last)
"""

# y = x_used · wᵀ + bias in float32, then in the type of x.
_SUM = """
  w_transposed = Transpose <perm = [1, 0]> (w)
  product = MatMul (x_used, w_transposed)
  bias_32 = Cast <to = 1> (bias)
  sum = Add (product, bias_32)
"""
_MULTIPLY = f"""{_SUM}
  y = CastLike (sum, x)
"""

# The same and (x · low_rank_a) · low_rank_b, with x as it came.
_MULTIPLY_LOW_RANK = f"""{_SUM}
  x_32_low_rank = Cast <to = 1> (x)
  low_rank_a_32 = Cast <to = 1> (low_rank_a)
  low_rank_b_32 = Cast <to = 1> (low_rank_b)
  x_down = MatMul (x_32_low_rank, low_rank_a_32)
  x_up = MatMul (x_down, low_rank_b_32)
  whole_sum = Add (sum, x_up)
  y = CastLike (whole_sum, x)
"""


def with_low_rank(body: str) -> str:
    """The body of a product, with a low-rank branch added to what it computes."""
    return body.replace(_MULTIPLY, _MULTIPLY_LOW_RANK)


MATMUL_LOW_BIT = f"""
  values = Identity (table)
{LOW_BIT_WEIGHT}
  x_used = Cast <to = 1> (x)
{_MULTIPLY}"""

# Images: y = x convolved with w [N, kernel height, kernel width, channels], in float32.
CONV_LOW_BIT = f"""
  values = Identity (table)
{LOW_BIT_WEIGHT}
  kernel_of_image = Constant <value_ints: ints = @kernel_shape> ()
  image_shape_of_w = Concat <axis = 0> (first, kernel_of_image, last)
  w_by_channels = Reshape (w, image_shape_of_w)
  w_of_image = Transpose <perm = [0, 3, 1, 2]> (w_by_channels)
  x_32 = Cast <to = 1> (x)
  product = Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations> (x_32, w_of_image)
  bias_32 = Cast <to = 1> (bias)
  bias_shape = Constant <value_ints = [1, -1, 1, 1]> ()
  bias_of_image = Reshape (bias_32, bias_shape)
  sum = Add (product, bias_of_image)
  y = CastLike (sum, x)
"""

# values: a table other than 0, 1, 2, … is rounded to multiples of largest/127. For integer sums.
ROUNDED_TABLE = """
  table_zero = Constant <value_float = 0.0> ()
  table_steps = Constant <value_float = 127.0> ()
  tiny_table = Constant <value_float = 1e-30> ()
  count_end = Constant <value_int: int = @levels> ()
  count_begin = Constant <value_int = 0> ()
  count_step = Constant <value_int = 1> ()
  count = Range (count_begin, count_end, count_step)
  count_32 = Cast <to = 1> (count)
  off_count = Sub (table, count_32)
  off_count_size = Abs (off_count)
  off_count_largest = ReduceMax <keepdims = 0> (off_count_size)
  counts = Equal (off_count_largest, table_zero)
  table_size = Abs (table)
  table_largest = ReduceMax <keepdims = 0> (table_size)
  table_safe = Max (table_largest, tiny_table)
  table_step = Div (table_safe, table_steps)
  table_ratio = Div (table, table_step)
  table_code = Round (table_ratio)
  table_rounded = Mul (table_code, table_step)
  values = Where (counts, table, table_rounded)
"""

DYNAMIC_QUANTIZE_MATMUL_LOW_BIT = f"""
  float_zero = Constant <value_float = 0.0> ()
{ROUNDED_TABLE}{LOW_BIT_WEIGHT}{_ROUND_X}{_MULTIPLY}"""

MATMUL_CODEBOOK = f"""
  vectors = Cast <to = 1> (codebooks)
{_CODEBOOK}
  x_used = Cast <to = 1> (x)
{_MULTIPLY}"""

# Code books are rounded to multiples of (sum over books of their largest number)/127, so that sums fit in 8 bits.
DYNAMIC_QUANTIZE_MATMUL_CODEBOOK = f"""
  float_zero = Constant <value_float = 0.0> ()
  tiny_book = Constant <value_float = 1e-30> ()
  book_axes = Constant <value_ints = [1, 2]> ()
  book_axis = Constant <value_ints = [0]> ()
  books_32 = Cast <to = 1> (codebooks)
  book_size = Abs (books_32)
  book_largest = ReduceMax <keepdims = 0> (book_size, book_axes)
  books_largest = ReduceSum <keepdims = 0> (book_largest, book_axis)
  books_safe = Max (books_largest, tiny_book)
  steps_of_books = Constant <value_float = 127.0> ()
  book_step = Div (books_safe, steps_of_books)
  book_ratio = Div (books_32, book_step)
  book_code = Round (book_ratio)
  vectors = Mul (book_code, book_step)
{_CODEBOOK}{_ROUND_X}{_MULTIPLY}"""

# Only the rows asked for are decoded: y[..., K] in the type of the code books. And row 0, so that there always is one:
# ONNX Runtime puts a -1 into shapes that follow from those of inputs, which cannot be inferred when there is no row.
GATHER_CODEBOOK = f"""
  flat_shape_of_rows = Constant <value_ints = [-1]> ()
  flat_rows = Reshape (rows, flat_shape_of_rows)
  row_0 = Constant <value_ints = [0]> ()
  one_row = CastLike (row_0, rows)
  some_rows = Concat <axis = 0> (flat_rows, one_row)
  codes = Gather <axis = 0> (weight_codes, some_rows)
  scale = Gather <axis = 0> (weight_scale, some_rows)
  vectors = Cast <to = 1> (codebooks)
{_CODEBOOK}
  w_of_rows = Slice (w, first, last, first)
  row_shape = Shape (rows)
  y_shape = Concat <axis = 0> (row_shape, columns_1)
  y_32 = Reshape <allowzero = 1> (w_of_rows, y_shape)
  y = CastLike (y_32, codebooks)
"""
