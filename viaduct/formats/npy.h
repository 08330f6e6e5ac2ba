// numpy's .npy files: one array a file. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/dtype.h"
#include "viaduct/core/error.h"
#include "viaduct/core/file.h"
#include "viaduct/core/shape.h"

namespace viaduct::formats {

/// What stands before the data.
struct NpyHeader {
  DType dtype{};
  Shape shape;
  bool fortran_order = false;  // the first axis is the one without gaps
  uint64_t data_offset = 0;    // of the first element in the file
};

/// Parses the beginning of a file that has `file_size` bytes; `head` holds at least its header (kMostNpyHeader
/// bytes, or all of a shorter file). Versions 1.0, 2.0 and 3.0, little-endian types of one number. UserError
/// "<origin>: ..." with what was found for anything else, and for a size that is not what the shape says.
NpyHeader parse_npy_header(std::span<const std::byte> head, uint64_t file_size, std::string_view origin);
/// Headers are refused that are longer; numpy writes more only for types with thousands of fields.
inline constexpr uint64_t kMostNpyHeader = 1 << 16;

/// The bytes that numpy.save puts before the data of such an array, which is in C order. UserError for a type that
/// numpy does not have.
std::string npy_header_text(DType dtype, const Shape& shape);

/// An array in memory or in a mapped file; copies share it.
class NpyArray {
 public:
  NpyArray() = default;
  /// The array of a file, mapped: nothing is read before it is asked for.
  static NpyArray map(const Path& path);
  /// An array that takes over these elements.
  template <class T>
  NpyArray(std::vector<T> elements, DType dtype, Shape shape);

  /// Element type and sizes; C order, or Fortran order when there is more than one axis and fortran_order().
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  bool fortran_order() const { return fortran_order_; }
  /// Number of elements.
  int64_t size() const { return size_; }
  /// The elements as they lie in the file.
  std::span<const std::byte> bytes() const { return bytes_; }
  /// The elements; InternalError unless T has the size of the type.
  template <class T>
  std::span<const T> as() const;
  /// An element by its place in the file, of an array of integers of up to 64 bits; InternalError for other types
  /// and outside of the array.
  int64_t integer(int64_t at) const;

  /// Writes what numpy.save would: staged, synced and renamed into place.
  void save(const Path& path) const;

 private:
  DType dtype_{};
  Shape shape_;
  bool fortran_order_ = false;
  int64_t size_ = 0;
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
};

template <class T>
NpyArray::NpyArray(std::vector<T> elements, DType dtype, Shape shape)
    : dtype_(dtype), shape_(std::move(shape)), size_(num_elements(shape_)) {
  VIADUCT_CHECK_EQ(static_cast<size_t>(element_size(dtype)), sizeof(T));
  VIADUCT_CHECK_EQ(elements.size(), static_cast<size_t>(size_));
  auto owner = std::make_shared<const std::vector<T>>(std::move(elements));
  bytes_ = std::as_bytes(std::span(*owner));
  owner_ = std::move(owner);
}

template <class T>
std::span<const T> NpyArray::as() const {
  VIADUCT_CHECK_EQ(sizeof(T), static_cast<size_t>(element_size(dtype_)));
  return {reinterpret_cast<const T*>(bytes_.data()), static_cast<size_t>(size_)};
}

}  // namespace viaduct::formats
