// What the reader and the writer of event files share: numbers of fields and records' checksums.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "viaduct/core/hash.h"

namespace viaduct::formats {

/// The checksum as records hold it: turned and shifted, since a CRC of bytes that hold their own CRC is weak.
inline uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(std::as_bytes(std::span(bytes)));
  return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/// Numbers of fields in TensorFlow's messages.
namespace event_field {
/// By the names of the fields.
enum : uint32_t { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5 };
}  // namespace event_field
/// As event_field, of Summary and Summary.Value.
namespace summary_field {
/// By the names of the fields.
enum : uint32_t { kValue = 1, kTag = 1, kSimpleValue = 2, kHistogram = 5, kTensor = 8, kMetadata = 9 };
}  // namespace summary_field
/// As event_field, of SummaryMetadata and its PluginData.
namespace metadata_field {
/// By the names of the fields.
enum : uint32_t { kPluginData = 1, kPluginName = 1 };
}  // namespace metadata_field
/// As event_field, of HistogramProto.
namespace histogram_field {
/// By the names of the fields.
enum : uint32_t { kMin = 1, kMax, kCount, kSum, kSumOfSquares, kLimits, kCounts };
}  // namespace histogram_field
/// As event_field, of TensorProto, TensorShapeProto and its Dim.
namespace tensor_field {
/// By the names of the fields.
enum : uint32_t {
  kType = 1,
  kShape = 2,
  kContent = 4,
  kFloats = 5,
  kDoubles = 6,
  kStrings = 8,
  kDim = 2,
  kSize = 1
};
}  // namespace tensor_field
/// TensorProto's types.
enum TensorType : int64_t { kTensorFloat = 1, kTensorDouble = 2, kTensorString = 7 };

/// What the first event of a file says.
constexpr std::string_view kEventFileVersion = "brain.Event:2";

}  // namespace viaduct::formats
