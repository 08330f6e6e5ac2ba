// Buffer: memory of one size, aligned to pages and not cleared.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

namespace viaduct {

/// Memory that one object owns; movable. What it holds is not known until it is written.
class Buffer {
 public:
  /// The address is a multiple of this, and the memory reaches to the next one.
  static constexpr size_t kAlignment = 4096;

  Buffer() = default;
  /// `size` bytes of no certain value, on whole pages: fit for O_DIRECT. std::bad_alloc.
  explicit Buffer(size_t size)
      : memory_(static_cast<std::byte*>(
            std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment))),
        size_(size) {
    if (!memory_ && size != 0) throw std::bad_alloc();
  }

  /// The bytes, nullptr when there are none.
  std::byte* data() const { return memory_.get(); }
  /// The bytes that were asked for.
  size_t size() const { return size_; }
  /// All size() bytes.
  std::span<std::byte> bytes() const { return {memory_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte[], Free> memory_;
  size_t size_ = 0;
};

}  // namespace viaduct
