#include "viaduct/nn/tensor_sink.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>

#include "viaduct/core/error.h"

namespace viaduct::nn {

namespace {

// Elements [begin, end) of a tensor in row-major order become those of `values`, which has one axis.
void copy_range(at::Tensor tensor, int64_t begin, int64_t end, const at::Tensor& values) {
  if (begin == end) return;
  if (begin == 0 && end == tensor.numel()) {
    tensor.copy_(values.view(tensor.sizes()), /*non_blocking=*/true);
    return;
  }
  const int64_t row = tensor.numel() / tensor.size(0);
  const int64_t first_whole = (begin + row - 1) / row, whole_end = end / row;
  const auto part = [&](int64_t from, int64_t to) { return values.narrow(0, from - begin, to - from); };
  if (first_whole > whole_end) {  // inside of one row
    copy_range(tensor.select(0, whole_end), begin - whole_end * row, end - whole_end * row, values);
    return;
  }
  if (const int64_t to = first_whole * row; begin < to)
    copy_range(tensor.select(0, first_whole - 1), begin - (to - row), row, part(begin, to));
  if (first_whole < whole_end) {
    at::Tensor rows = tensor.narrow(0, first_whole, whole_end - first_whole);
    rows.copy_(part(first_whole * row, whole_end * row).view(rows.sizes()), /*non_blocking=*/true);
  }
  if (const int64_t from = whole_end * row; from < end)
    copy_range(tensor.select(0, whole_end), 0, end - from, part(from, end));
}

class TensorSink : public bridge::ByteSink {
 public:
  TensorSink(std::vector<at::Tensor> tensors, uint64_t staging_bytes)
      : tensors_(std::move(tensors)), max_slots_(std::max<uint64_t>(2, staging_bytes / bridge::kBlockBytes)) {}

  ~TensorSink() override {
    for (Slot& slot : slots_)
      if (slot.copied) slot.copied->synchronize();  // its memory is in use until then
  }

  void write(uint32_t file, uint64_t offset, std::span<const std::byte> from) override {
    const at::Tensor& tensor = tensors_.at(file);
    VIADUCT_CHECK(offset + from.size() <= tensor.nbytes(), "bytes {} to {} of a tensor of {}", offset,
                  offset + from.size(), tensor.nbytes());
    if (!tensor.device().is_cpu()) return write_staged(tensor, offset, from);
    if (tensor.is_contiguous()) {
      std::memcpy(static_cast<std::byte*>(tensor.data_ptr()) + offset, from.data(), from.size());
      return;
    }
    // from_blob takes memory that can be written; it is only read.
    copy_bytes(tensor, offset,
               at::from_blob(const_cast<std::byte*>(from.data()), {static_cast<int64_t>(from.size())}, at::kByte));
  }

  void finish() override {
    const std::lock_guard lock(mutex_);
    for (Slot& slot : slots_)
      if (slot.copied) slot.copied->synchronize();
  }

 private:
  struct Slot {
    at::Tensor pinned;
    std::optional<c10::Event> copied;  // what was last sent from it
  };

  static void copy_bytes(const at::Tensor& tensor, uint64_t offset, const at::Tensor& bytes) {
    const auto size = static_cast<int64_t>(tensor.element_size());
    const auto begin = static_cast<int64_t>(offset), count = bytes.numel();
    VIADUCT_CHECK(begin % size == 0 && count % size == 0, "bytes {} to {} are no whole elements", begin,
                  begin + count);
    copy_range(tensor, begin / size, (begin + count) / size, bytes.view(tensor.scalar_type()));
  }

  void write_staged(const at::Tensor& tensor, uint64_t offset, std::span<const std::byte> from) {
    for (uint64_t done = 0; done < from.size(); done += bridge::kBlockBytes) {
      const auto part = from.subspan(done, std::min<size_t>(bridge::kBlockBytes, from.size() - done));
      Slot slot = take();
      if (slot.copied) slot.copied->synchronize();
      std::memcpy(slot.pinned.data_ptr(), part.data(), part.size());
      copy_bytes(tensor, offset + done, slot.pinned.narrow(0, 0, static_cast<int64_t>(part.size())));
      const c10::impl::VirtualGuardImpl guard(tensor.device().type());
      slot.copied.emplace(tensor.device().type());
      slot.copied->record(guard.getStream(tensor.device()));
      give_back(std::move(slot));
    }
  }

  Slot take() {
    std::unique_lock lock(mutex_);
    if (slots_.empty() && made_ < max_slots_) {
      ++made_;
      return {
          at::empty({static_cast<int64_t>(bridge::kBlockBytes)}, at::TensorOptions(at::kByte).pinned_memory(true)),
          std::nullopt};
    }
    free_.wait(lock, [&] { return !slots_.empty(); });
    Slot slot = std::move(slots_.front());  // the one that was sent first
    slots_.erase(slots_.begin());
    return slot;
  }
  void give_back(Slot slot) {
    {
      const std::lock_guard lock(mutex_);
      slots_.push_back(std::move(slot));
    }
    free_.notify_one();
  }

  const std::vector<at::Tensor> tensors_;
  const uint64_t max_slots_;
  std::mutex mutex_;
  std::condition_variable free_;
  std::vector<Slot> slots_;  // that no thread uses, in the order in which they were sent
  uint64_t made_ = 0;
};

}  // namespace

std::unique_ptr<bridge::ByteSink> tensor_sink(std::vector<at::Tensor> tensors, uint64_t staging_bytes) {
  return std::make_unique<TensorSink>(std::move(tensors), staging_bytes);
}

}  // namespace viaduct::nn
