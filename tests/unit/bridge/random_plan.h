// Random transfer plans with every kind of piece, and what they mean, worked out one element at a time.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "viaduct/bridge/transfer.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/hash.h"

namespace viaduct::bridge {

using Bytes = std::vector<std::byte>;

/// A plan with the bytes of its source files.
struct PlanWithSource {
  TransferPlan plan;
  std::vector<Bytes> sources;

  std::vector<std::span<const std::byte>> source_spans() const { return {sources.begin(), sources.end()}; }
  std::vector<uint64_t> source_sizes() const {
    std::vector<uint64_t> sizes;
    for (const Bytes& bytes : sources) sizes.push_back(bytes.size());
    return sizes;
  }
};

/// Calls visit(index) for every index of a box of this size, in row-major order.
template <class Visit>
void for_each_index(const Shape& size, Visit&& visit) {
  Shape index = Shape::filled(size.rank(), 0);
  for (int64_t left = num_elements(size); left > 0; --left) {
    visit(index);
    for (int axis = size.rank(); axis-- > 0;) {
      if (++index[axis] < size[axis]) break;
      index[axis] = 0;
    }
  }
}

/// One element as the format's own conversion has it; formats of blocks by converting the block around it.
inline void convert_element(DType from, const std::byte* base, int64_t element, DType to, std::byte* out) {
  const int block = info(from).block_elements;
  if (from == to) {
    std::memcpy(out, base + element * element_size(to), static_cast<size_t>(element_size(to)));
    return;
  }
  Bytes values(static_cast<size_t>(block * element_size(to)));
  convert(from, base + element / block * info(from).block_bytes, to, values.data(), block);
  std::memcpy(out, values.data() + element % block * element_size(to), static_cast<size_t>(element_size(to)));
}

/// Element `element` of a tensor of codes, by the definition: the code's number times its scale, rounded once.
inline uint16_t scaled_element(const PlanWithSource& given, const SourceChunk& source, int64_t element) {
  const Scales& scales = given.plan.scales[source.scales];
  const ScaledForm& form = given.plan.forms[scales.form];
  const std::byte* codes = given.sources[source.file].data() + source.byte_offset;
  float number = 0;
  if (form.codes == Codes::kInt4) {
    number = static_cast<float>(std::to_integer<int>(codes[element / 2]) >> (element % 2 * 4) & 0xF) - 8;
  } else {
    convert_element(source.dtype, codes, element, DType::kF32, reinterpret_cast<std::byte*>(&number));
  }
  int64_t index = 0, rest = element;
  const Shape grid = form.grid(source.size), strides = row_major_strides(source.size);
  for (int axis = 0; axis < source.size.rank(); ++axis) {
    index = index * grid[axis] + rest / strides[axis] / form.block[axis];
    rest %= strides[axis];
  }
  const std::byte* at = given.sources[scales.file].data() + scales.byte_offset;
  float scale = 0;
  if (form.scale_dtype == DType::kU8) {
    const double power = std::ldexp(1.0, std::to_integer<int>(at[index]) - 127);
    return to_bfloat16_bits(static_cast<float>(number * power));
  }
  convert_element(form.scale_dtype, at, index, DType::kF32, reinterpret_cast<std::byte*>(&scale));
  if (form.round_scale) scale = to_float32(to_bfloat16_bits(scale));
  return to_bfloat16_bits(number * scale);
}

/// The target files that a plan should give. Bytes that nothing writes keep `unwritten`.
inline std::vector<Bytes> expected_files(const PlanWithSource& given, std::byte unwritten = std::byte{0}) {
  const TransferPlan& plan = given.plan;
  std::vector<Bytes> files;
  for (const formats::TargetFile& file : plan.target.files) files.emplace_back(file.size, unwritten);
  for (const formats::Literal& literal : plan.target.literals)
    std::memcpy(files[literal.file].data() + literal.offset, literal.bytes.data(), literal.bytes.size());
  for (const TargetChunk& chunk : plan.targets) {
    std::byte* const out = files[chunk.file].data() + chunk.byte_offset;
    const Shape strides = row_major_strides(chunk.size);
    for (uint32_t t = 0; t < chunk.num_transfers; ++t) {
      const Transfer& transfer = plan.transfers[chunk.first_transfer + t];
      const Region& region = plan.region_of(transfer);
      for_each_index(region.to.size, [&](const Shape& index) {
        int64_t target = 0;
        for (int a = 0; a < index.rank(); ++a)
          target += (region.to.offset[a] + index[a] * region.to.stride[a]) * strides[a];
        std::byte* const to = out + target * element_size(chunk.dtype);
        if (transfer.source == layout::kNoTensor) {
          std::memset(to, 0, static_cast<size_t>(element_size(chunk.dtype)));
          return;
        }
        const SourceChunk& source = plan.sources[static_cast<size_t>(transfer.source)];
        const Shape steps = source.strides.empty() ? row_major_strides(source.size) : source.strides;
        int64_t element = 0;
        for (int b = 0; b < region.from.rank(); ++b) element += region.from.offset[b] * steps[b];
        for (int a = 0; a < index.rank(); ++a) {
          const int b = region.axes[a];
          if (b >= 0) element += index[a] * region.from.stride[b] * steps[b];
        }
        const std::byte* from = given.sources[source.file].data() + source.byte_offset;
        uint16_t number = 0;
        if (source.is_scaled()) {
          number = scaled_element(given, source, element);
          from = reinterpret_cast<const std::byte*>(&number);
          element = 0;
        }
        const float add = chunk.add + source.add;
        if (add == 0) return convert_element(source.value_dtype(), from, element, chunk.dtype, to);
        float value = 0;
        convert_element(source.value_dtype(), from, element, DType::kF32, reinterpret_cast<std::byte*>(&value));
        value += add;
        convert_element(DType::kF32, reinterpret_cast<const std::byte*>(&value), 0, chunk.dtype, to);
      });
    }
  }
  for (const formats::CrcField& field : plan.target.crc_fields) {
    for (const TargetChunk& chunk : plan.targets) {
      if (chunk.tensor != field.tensor || chunk.chunk != field.chunk) continue;
      const uint32_t crc = crc32(std::span(files[chunk.file]).subspan(chunk.byte_offset, chunk.num_bytes()));
      for (int i = 0; i < 4; ++i)
        files[field.file][field.offset + static_cast<uint64_t>(i)] = static_cast<std::byte>(crc >> (8 * i));
    }
  }
  return files;
}

/// Builds a plan piece by piece; files grow as things are put into them.
class PlanMaker {
 public:
  explicit PlanMaker(uint32_t seed) : random_(seed) {}

  int64_t number(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
  bool chance(int percent) { return number(1, 100) <= percent; }

  uint32_t add_source_file() {
    given_.sources.emplace_back();
    given_.plan.source_files.push_back("source" + std::to_string(given_.sources.size()));
    return static_cast<uint32_t>(given_.sources.size() - 1);
  }
  uint32_t add_target_file() {
    given_.plan.target.files.push_back({"target" + std::to_string(given_.plan.target.files.size()), 0});
    return static_cast<uint32_t>(given_.plan.target.files.size() - 1);
  }

  void append_random(Bytes& bytes, size_t count) {
    const size_t begin = bytes.size();
    bytes.resize(begin + count);
    for (size_t i = begin; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(random_() >> 3);
  }

  /// A source chunk of random bits at the end of a file, `gap` bytes further on; row-major unless strides are
  /// given.
  int32_t add_source(uint32_t file, DType dtype, const Shape& size, const Shape& strides = {}, size_t gap = 0) {
    Bytes& bytes = given_.sources[file];
    append_random(bytes, gap);
    int64_t elements = num_elements(size);
    if (!strides.empty()) {
      elements = 1;
      for (int axis = 0; axis < size.rank(); ++axis) elements += (size[axis] - 1) * strides[axis];
    }
    given_.plan.sources.push_back({file, bytes.size(), dtype, size, strides});
    append_random(bytes, static_cast<size_t>(num_bytes(dtype, elements)));
    return static_cast<int32_t>(given_.plan.sources.size() - 1);
  }

  /// A bfloat16 tensor of ordinary numbers.
  int32_t add_numbers(uint32_t file, const Shape& size) {
    const int32_t id = add_source(file, DType::kBF16, size);
    std::byte* const bytes = given_.sources[file].data() + given_.plan.sources.back().byte_offset;
    for (int64_t i = 0; i < num_elements(size); ++i) {
      const uint16_t bits = to_bfloat16_bits(static_cast<float>(number(-4000, 4000)) * 0x1p-11f);
      std::memcpy(bytes + 2 * i, &bits, 2);
    }
    return id;
  }
  Bytes& bytes(uint32_t file) { return given_.sources[file]; }

  /// A tensor of random codes with scales of ordinary sizes, both at the ends of files.
  int32_t add_scaled_source(uint32_t file, const Shape& size, const ScaledForm& form, uint32_t scale_file) {
    const bool nibbles = form.codes == Codes::kE2M1 || form.codes == Codes::kInt4;
    const DType packing = nibbles ? DType::kF4 : form.codes == Codes::kE4M3 ? DType::kF8E4M3 : DType::kF8E5M2;
    const int32_t id = add_source(file, packing, size, {}, static_cast<size_t>(number(0, 40)));
    TransferPlan& plan = given_.plan;
    plan.sources.back().scales = static_cast<uint32_t>(plan.scales.size());
    Bytes& bytes = given_.sources[scale_file];
    append_random(bytes, static_cast<size_t>(number(0, 40)));
    plan.scales.push_back({scale_file, static_cast<uint32_t>(plan.forms.size()), bytes.size()});
    plan.forms.push_back(form);
    for (int64_t i = num_elements(form.grid(size)); i > 0; --i) {
      std::byte scale[4];
      if (form.scale_dtype == DType::kU8 || form.scale_dtype == DType::kF8E8M0) {
        scale[0] = static_cast<std::byte>(number(0, 254));
      } else {
        const float value = static_cast<float>(number(1, 1 << 20)) * 0x1p-22f;
        convert_element(DType::kF32, reinterpret_cast<const std::byte*>(&value), 0, form.scale_dtype, scale);
      }
      bytes.insert(bytes.end(), scale, scale + element_size(form.scale_dtype));
    }
    return id;
  }

  /// Known bytes at the end of a target file.
  void add_literal(uint32_t file, size_t count) {
    formats::TargetFile& target = given_.plan.target.files[file];
    std::string bytes(count, ' ');
    for (char& c : bytes) c = static_cast<char>(number(1, 255));
    given_.plan.target.literals.push_back({file, target.size, std::move(bytes)});
    target.size += count;
  }
  /// A literal of zeros with a place for the CRC-32 of a chunk.
  void add_crc_field(uint32_t file, uint32_t tensor, size_t before, size_t behind) {
    formats::TargetFile& target = given_.plan.target.files[file];
    given_.plan.target.literals.push_back({file, target.size, std::string(before + 4 + behind, '\0')});
    given_.plan.target.crc_fields.push_back({file, target.size + before, tensor, 0});
    target.size += before + 4 + behind;
  }

  /// Begins a target chunk at the end of a file; its transfers follow by add_transfer. Returns its tensor's number.
  uint32_t add_target(uint32_t file, DType dtype, const Shape& size) {
    TransferPlan& plan = given_.plan;
    TargetChunk chunk;
    chunk.file = file;
    chunk.byte_offset = plan.target.files[file].size;
    chunk.dtype = dtype;
    chunk.size = size;
    chunk.tensor = static_cast<uint32_t>(plan.target.tensors.size());
    chunk.first_transfer = static_cast<uint32_t>(plan.transfers.size());
    plan.target.files[file].size += chunk.num_bytes();
    plan.target.tensors.push_back({"tensor" + std::to_string(chunk.tensor),
                                   dtype,
                                   size,
                                   {{Shape::filled(size.rank(), 0), size, file, chunk.byte_offset, {}}}});
    plan.targets.push_back(chunk);
    return chunk.tensor;
  }
  void add_transfer(int32_t source, Region region) {
    given_.plan.transfers.push_back({source, static_cast<uint32_t>(given_.plan.regions.size())});
    given_.plan.regions.push_back(std::move(region));
    ++given_.plan.targets.back().num_transfers;
  }
  void add_whole_transfer(int32_t source) {
    const Shape size = given_.plan.targets.back().size;
    add_transfer(source,
                 {layout::Box::whole(size), layout::Box::whole(size), layout::AxisMap::identity(size.rank())});
  }

  /// A target of random shape, cut into random boxes that each come from a source chunk of their own (permuted
  /// axes, strides, offsets, other dtypes) or are zero.
  void add_random_target(uint32_t file, int64_t most_elements, bool conversions) {
    constexpr DType kTypes[] = {DType::kF64, DType::kF32,  DType::kF16,    DType::kBF16, DType::kI64,
                                DType::kU8,  DType::kC128, DType::kF8E4M3, DType::kBool};
    constexpr DType kNumbers[] = {DType::kF64,  DType::kF32,    DType::kF16,
                                  DType::kBF16, DType::kF8E4M3, DType::kF8E5M2};
    const bool converts = conversions && chance(40);
    const DType dtype = converts ? kNumbers[number(0, 3)] : kTypes[number(0, std::size(kTypes) - 1)];
    const auto rank = static_cast<int>(number(0, 4));
    Shape size = Shape::filled(rank, 1);
    int64_t room = most_elements;
    for (int axis = 0; axis < rank; ++axis) {
      size[axis] =
          chance(5) ? 0 : number(1, std::max<int64_t>(1, std::min<int64_t>(room, axis + 1 == rank ? room : 12)));
      room /= std::max<int64_t>(size[axis], 1);
    }
    // Rows of whole blocks, so that a chunk may come from a block format.
    const bool blocks = converts && rank > 0 && chance(30);
    const bool codes = converts && rank > 0 && !blocks && chance(50);
    if (blocks) size[rank - 1] = size[rank - 1] / 32 * 32 + 32;
    add_target(file, dtype, size);
    if (converts && chance(30)) given_.plan.targets.back().add = chance(50) ? 1.0f : -1.0f;
    cut(layout::Box::whole(size), dtype,
        converts ? (blocks  ? 2
                    : codes ? 3
                            : 1)
                 : 0,
        static_cast<int>(number(0, 3)));
  }

  PlanWithSource finish() { return std::move(given_); }
  TransferPlan& plan() { return given_.plan; }

 private:
  void cut(const layout::Box& box, DType dtype, int conversion, int depth) {
    if (num_elements(box.size) == 0) return;
    const int axis = box.rank() == 0 ? -1 : static_cast<int>(number(0, box.rank() - 1));
    if (depth == 0 || axis < 0 || box.size[axis] < 2) return fill_box(box, dtype, conversion);
    layout::Box a = box, b = box;
    if (chance(40)) {  // by turns
      a.size[axis] = (box.size[axis] + 1) / 2;
      b.size[axis] = box.size[axis] / 2;
      a.stride[axis] = b.stride[axis] = 2 * box.stride[axis];
      b.offset[axis] += box.stride[axis];
    } else {
      a.size[axis] = number(1, box.size[axis] - 1);
      b.size[axis] = box.size[axis] - a.size[axis];
      b.offset[axis] += a.size[axis] * box.stride[axis];
    }
    for (layout::Box* part : {&a, &b})
      for (int i = 0; i < part->rank(); ++i)
        if (part->size[i] == 1) part->stride[i] = 1;
    if (chance(50)) std::swap(a, b);
    cut(a, dtype, conversion, depth - 1);
    cut(b, dtype, conversion, depth - 1);
  }

  void fill_box(const layout::Box& to, DType dtype, int conversion) {
    if (chance(10)) return add_transfer(layout::kNoTensor, {{}, to, {}});
    constexpr DType kNumbers[] = {DType::kF64,  DType::kF32,    DType::kF16,
                                  DType::kBF16, DType::kF8E4M3, DType::kF8E5M2};
    constexpr DType kBlocks[] = {DType::kQ8_0, DType::kQ4_1, DType::kQ5_0, DType::kQ4_K, DType::kQ6_K};
    DType from = dtype;
    if (conversion == 1) from = kNumbers[number(0, std::size(kNumbers) - 1)];
    const bool blocks = conversion == 2, codes = conversion == 3 && to.rank() > 0;
    if (blocks) from = kBlocks[number(0, std::size(kBlocks) - 1)];
    // The source's axes are the target's in some order, and perhaps one more of size 1.
    const int rank = to.rank();
    std::vector<int> order(static_cast<size_t>(rank));
    for (int i = 0; i < rank; ++i) order[static_cast<size_t>(i)] = i;
    if (chance(40)) std::shuffle(order.begin(), order.end(), random_);
    const bool extra = rank < 5 && !blocks && chance(20);
    Region region;
    region.to = to;
    layout::Box box;
    Shape size;
    if (extra) {
      size.push_back(number(1, 3));
      box.offset.push_back(number(0, size[0] - 1));
      box.size.push_back(1);
      box.stride.push_back(1);
    }
    for (int axis : order) {
      const int64_t count = to.size[axis];
      const int64_t stride = count > 1 && chance(25) ? number(1, 3) : 1;
      const int64_t offset = chance(40) ? number(0, 3) : 0;
      region.axes[axis] = static_cast<int8_t>(size.rank());
      size.push_back(offset + (count - 1) * stride + 1 + (chance(30) ? number(0, 2) : 0));
      box.offset.push_back(offset);
      box.size.push_back(count);
      box.stride.push_back(stride);
    }
    if (blocks && rank > 0) {
      const int64_t block = info(from).block_elements;
      size[size.rank() - 1] = (size[size.rank() - 1] + block - 1) / block * block;
    }
    if (blocks && rank == 0) from = dtype;
    region.from = box;
    if (codes) return add_transfer(random_codes(size), std::move(region));
    Shape strides;
    if (!blocks && chance(30) && size.rank() > 0) {  // a view: padded rows, or turned
      strides = row_major_strides(size);
      if (chance(50)) {
        for (int64_t& stride : strides) stride *= 2;
      } else {
        int64_t step = 1;
        for (int axis = 0; axis < size.rank(); ++axis) {
          strides[axis] = step;
          step *= size[axis];
        }
      }
    }
    const auto file = static_cast<uint32_t>(number(0, static_cast<int64_t>(given_.sources.size()) - 1));
    const int32_t source = add_source(file, from, size, strides, static_cast<size_t>(number(0, 40)));
    if (conversion != 0 && chance(20)) given_.plan.sources.back().add = chance(50) ? 1.0f : -1.0f;
    add_transfer(source, std::move(region));
  }

  // Codes of every kind, with blocks of every size.
  int32_t random_codes(Shape size) {
    constexpr DType kScales[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E8M0};
    ScaledForm form;
    form.codes = static_cast<Codes>(number(0, 3));
    const bool nibbles = form.codes == Codes::kE2M1 || form.codes == Codes::kInt4;
    if (nibbles) size[size.rank() - 1] += size[size.rank() - 1] % 2;
    form.scale_dtype = form.codes == Codes::kE2M1 ? DType::kU8 : kScales[number(0, 3)];
    form.round_scale = chance(30);
    for (const int64_t axis : size) form.block.push_back(chance(30) ? std::max<int64_t>(axis, 1) : number(1, 40));
    const auto last = static_cast<int64_t>(given_.sources.size()) - 1;
    return add_scaled_source(static_cast<uint32_t>(number(0, last)), size, form,
                             static_cast<uint32_t>(number(0, last)));
  }

  std::mt19937 random_;
  PlanWithSource given_;
};

}  // namespace viaduct::bridge
