#include "viaduct/bridge/quantized_source.h"

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/core/scales.h"

namespace viaduct::bridge {

using Method = Quantization::Method;

namespace {

constexpr int64_t kMostElements = int64_t{1} << 48;  // along one axis; a unit of storage holds up to 32

bool is_fp8(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2; }

std::string_view without(std::string_view name, std::string_view end) {
  return name.substr(0, name.size() - end.size());
}

// Tensors that nothing is computed from here: what stands beside a quantised weight X.weight (or X), and what
// stands beside attention.
constexpr std::string_view kBesideWeight[] = {".input_scale", ".activation_scale", ".output_scale",
                                              ".weight_shape"};
constexpr std::string_view kBesideFused[] = {"_activation_scale", "_input_scale"};
constexpr std::string_view kBesideAttention[] = {".q_scale", ".k_scale", ".v_scale"};

// The elements that share a scale, when scales of this shape belong to a tensor of that one; nullopt when they do
// not fit.
std::optional<Shape> block_of(const Quantization& quantization, const Shape& tensor, const Shape& scales) {
  const int rank = tensor.rank();
  if (rank == 0) return std::nullopt;
  Shape block = Shape::filled(rank, 1);
  if (quantization.method == Method::kMxfp4) {
    block[rank - 1] = 32;
  } else if (quantization.method == Method::kCompressedInt4) {
    block[rank - 1] = quantization.group > 0 ? quantization.group : std::max<int64_t>(tensor[rank - 1], 1);
  } else if (quantization.block_rows > 0) {
    if (rank < 2) return std::nullopt;
    block[rank - 2] = quantization.block_rows;
    block[rank - 1] = quantization.block_columns;
  } else if (num_elements(scales) == 1) {
    for (int axis = 0; axis < rank; ++axis) block[axis] = std::max<int64_t>(tensor[axis], 1);
    return block;
  } else {
    // One scale for each index of the leading axes (channels, experts); where scales have the tensor's rank, axes
    // of size 1 are shared.
    if (scales.rank() > rank) return std::nullopt;
    for (int axis = 0; axis < rank; ++axis) {
      const int64_t found = axis < scales.rank() ? scales[axis] : 1;
      if (found != 1 && found != tensor[axis]) return std::nullopt;
      if (found == 1) block[axis] = std::max<int64_t>(tensor[axis], 1);
    }
    return block;
  }
  const ScaledForm form{Codes::kE4M3, DType::kF32, false, block};
  return form.grid(tensor) == scales ? std::optional(block) : std::nullopt;
}

class LogicalView {
 public:
  LogicalView(std::span<const NamedTensor> listed, const Quantization& quantization)
      : listed_(listed), quantization_(quantization) {
    for (size_t i = 0; i < listed.size(); ++i) ids_.emplace(listed[i].name, static_cast<int32_t>(i));
  }

  void add_all(LogicalTensors& result) {
    for (size_t i = 0; i < listed_.size(); ++i) add(static_cast<int32_t>(i), result);
  }
  void throw_problems(const std::string& origin) const {
    VIADUCT_USER_CHECK(problems_.empty(), "{}: its quantised weights are not complete; {}", origin,
                       problems_.text());
  }

 private:
  template <class... Args>
  void report(fmt::format_string<Args...> format, Args&&... args) {
    problems_.add(fmt::format(format, std::forward<Args>(args)...));
  }
  const NamedTensor* find(std::string_view name) const {
    const auto it = ids_.find(name);
    return it == ids_.end() ? nullptr : &listed_[static_cast<size_t>(it->second)];
  }

  bool holds_codes(const NamedTensor& tensor) const {
    switch (quantization_.method) {
      case Method::kMxfp4: return tensor.name.ends_with("_blocks");
      case Method::kCompressedInt4: return tensor.name.ends_with(".weight_packed");
      default: return is_fp8(tensor.dtype);
    }
  }
  std::string_view logical_name(std::string_view codes) const {
    switch (quantization_.method) {
      case Method::kMxfp4: return without(codes, "_blocks");
      case Method::kCompressedInt4: return without(codes, "_packed");
      default: return codes;
    }
  }
  std::string_view scale_ending() const {
    switch (quantization_.method) {
      case Method::kMxfp4: return "_scales";
      case Method::kFp8: return "_scale_inv";
      default: return "_scale";
    }
  }
  // "X.weight_packed" of "X.weight".
  std::string codes_name(std::string_view logical) const {
    switch (quantization_.method) {
      case Method::kMxfp4: return std::string(logical) + "_blocks";
      case Method::kCompressedInt4: return std::string(logical) + "_packed";
      default: return std::string(logical);
    }
  }

  // The codes that a tensor stands beside; empty when it belongs to attention, none when it is no such tensor.
  std::optional<std::string> beside_codes(std::string_view name) const {
    if (quantization_.method == Method::kMxfp4) return std::nullopt;
    for (const std::string_view end : kBesideAttention)
      if (name.ends_with(end)) return "";
    for (const std::string_view end : kBesideWeight)
      if (name.ends_with(end)) return codes_name(std::string(without(name, end)) + ".weight");
    for (const std::string_view end : kBesideFused)
      if (name.ends_with(end)) return codes_name(without(name, end));
    return std::nullopt;
  }

  void add(int32_t id, LogicalTensors& result) {
    const NamedTensor& tensor = listed_[static_cast<size_t>(id)];
    if (holds_codes(tensor)) return add_codes(id, result);
    if (tensor.name.ends_with(".weight_zero_point") || tensor.name.ends_with(".weight_g_idx"))
      return report("{}: weights with zero points or reordered groups are not read", tensor.name);
    if (const auto codes = beside_codes(tensor.name)) {
      const NamedTensor* partner = find(*codes);
      if (!codes->empty() && !(partner && holds_codes(*partner)))
        return report("{}: belongs to quantised weights {}, which are missing", tensor.name, *codes);
      result.beside.push_back(id);
      return;
    }
    if (tensor.name.ends_with(scale_ending())) {
      const std::string codes = codes_name(without(tensor.name, scale_ending()));
      const NamedTensor* partner = find(codes);
      if (partner && holds_codes(*partner)) {
        result.beside.push_back(id);
      } else if (partner) {
        report("{}: scales for {}, which is {} and needs none", tensor.name, codes, partner->dtype);
      } else {
        report("{}: scales for {}, which is missing", tensor.name, codes);
      }
      return;
    }
    result.tensors.push_back({tensor.name, tensor.dtype, tensor.shape, id});
  }

  void add_codes(int32_t id, LogicalTensors& result) {
    const NamedTensor& codes = listed_[static_cast<size_t>(id)];
    LogicalTensor logical{logical_name(codes.name), kScaledDType, codes.shape, id};
    ScaledForm form;
    const int rank = codes.shape.rank();
    for (const int64_t size : codes.shape)
      if (size > kMostElements) return report("{}: {} is too large for a weight", codes.name, codes.shape);
    if (quantization_.method == Method::kMxfp4) {
      if (codes.dtype != DType::kU8 || rank < 2 || codes.shape[rank - 1] != 16)
        return report("{}: {} {}, not U8 with 16 bytes a group along its last axis", codes.name, codes.dtype,
                      codes.shape);
      form.codes = Codes::kE2M1;
      Shape shape;
      for (int axis = 0; axis + 1 < rank; ++axis) shape.push_back(codes.shape[axis]);
      shape[rank - 2] *= 32;
      logical.shape = shape;
    } else if (quantization_.method == Method::kCompressedInt4) {
      if (codes.dtype != DType::kI32 || rank == 0)
        return report("{}: {} {}, not I32 with 8 codes each", codes.name, codes.dtype, codes.shape);
      form.codes = Codes::kInt4;
      logical.shape[rank - 1] *= 8;
    } else {
      form.codes = codes.dtype == DType::kF8E4M3 ? Codes::kE4M3 : Codes::kE5M2;
      form.round_scale = quantization_.method == Method::kFp8 && quantization_.block_rows == 0;
    }
    const std::string scales_name = std::string(logical.name) + std::string(scale_ending());
    const NamedTensor* scales = find(scales_name);
    if (!scales) return report("{}: its scales {} are missing", codes.name, scales_name);
    const bool power = quantization_.method == Method::kMxfp4;
    if (!is_scale_dtype(scales->dtype) || (scales->dtype == DType::kU8) != power)
      return report("{}: scales of type {}", scales_name, scales->dtype);
    const auto block = block_of(quantization_, logical.shape, scales->shape);
    if (!block)
      return report("{}: scales of shape {} do not fit {} of {}{}", scales_name, scales->shape, logical.name,
                    logical.shape, expectation(logical.shape));
    form.scale_dtype = scales->dtype;
    form.block = *block;
    logical.scales = static_cast<int32_t>(scales - listed_.data());
    const auto known = std::find(result.forms.begin(), result.forms.end(), form);
    logical.form = static_cast<int32_t>(known - result.forms.begin());
    if (known == result.forms.end()) result.forms.push_back(form);
    result.tensors.push_back(std::move(logical));
  }

  std::string expectation(const Shape& shape) const {
    if (quantization_.block_rows > 0)
      return fmt::format(" in blocks of [{}, {}]", quantization_.block_rows, quantization_.block_columns);
    if (quantization_.method == Method::kMxfp4) return " in groups of 32";
    if (quantization_.group > 0)
      return fmt::format(" in groups of {}: {} a row are expected", quantization_.group,
                         (shape[shape.rank() - 1] + quantization_.group - 1) / quantization_.group);
    return "; one a tensor or one a row is expected";
  }

  std::span<const NamedTensor> listed_;
  const Quantization& quantization_;
  std::unordered_map<std::string_view, int32_t> ids_;
  ProblemList problems_;
};

}  // namespace

const LogicalTensor* LogicalTensors::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors[it->second];
}

LogicalTensors logical_tensors(std::span<const NamedTensor> listed, const std::optional<Quantization>& quantization,
                               const std::string& origin) {
  LogicalTensors result;
  result.tensors.reserve(listed.size());
  if (quantization) {
    LogicalView view(listed, *quantization);
    view.add_all(result);
    view.throw_problems(origin);
  } else {
    for (size_t i = 0; i < listed.size(); ++i)
      result.tensors.push_back({listed[i].name, listed[i].dtype, listed[i].shape, static_cast<int32_t>(i)});
  }
  for (size_t i = 0; i < result.tensors.size(); ++i) {
    const bool fresh = result.by_name_.emplace(result.tensors[i].name, i).second;
    VIADUCT_USER_CHECK(fresh, "{}: {} is there twice, plain and quantised", origin, result.tensors[i].name);
  }
  return result;
}

std::vector<NamedTensor> named_tensors(const formats::TensorReader& reader) {
  std::vector<NamedTensor> named;
  named.reserve(reader.tensors().size());
  for (const formats::StoredTensor& tensor : reader.tensors())
    named.push_back({tensor.name, tensor.dtype, tensor.shape});
  return named;
}

std::vector<NamedTensor> named_tensors(const SourceRecord& record) {
  std::vector<NamedTensor> named;
  named.reserve(record.tensors.size());
  for (const ListedTensor& tensor : record.tensors) named.push_back({tensor.name, tensor.dtype, tensor.shape});
  return named;
}

PlainTensor plain_tensor(const LogicalTensor& logical, const formats::TensorReader& reader, StoredTensors& stored) {
  const formats::StoredTensor& codes = reader.tensors()[static_cast<size_t>(logical.stored)];
  PlainTensor plain = plain_tensor(codes);
  if (logical.scales < 0) return plain;
  const formats::StoredTensor& scales = reader.tensors()[static_cast<size_t>(logical.scales)];
  VIADUCT_USER_CHECK(codes.chunks.size() == 1 && codes.chunks[0].strides.empty() && scales.chunks.size() == 1 &&
                         scales.chunks[0].strides.empty(),
                     "{} and {}: strided views of quantised weights are not read; save them as safetensors",
                     codes.name, scales.name);
  plain.name = logical.name;
  plain.dtype = logical.dtype;
  plain.shape = logical.shape;
  SourceChunk& place = plain.chunks[0].place;
  if (!is_fp8(place.dtype)) place.dtype = DType::kF4;
  place.size = logical.shape;
  place.scales = static_cast<uint32_t>(stored.scales.size());
  plain.chunks[0].offset = Shape::filled(logical.shape.rank(), 0);
  stored.scales.push_back(
      {scales.chunks[0].file, static_cast<uint32_t>(logical.form), scales.chunks[0].byte_offset});
  return plain;
}

}  // namespace viaduct::bridge
