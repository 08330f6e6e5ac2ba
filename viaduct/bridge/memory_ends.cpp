// Memory, callbacks and nothing as the executor's ends.
#include <algorithm>
#include <cstring>

#include "viaduct/bridge/executor.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace {

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::vector<std::span<const std::byte>> buffers) : buffers_(std::move(buffers)) {}
  uint64_t size(uint32_t file) const override { return buffers_.at(file).size(); }
  size_t read(uint32_t file, uint64_t offset, std::span<std::byte> to) override {
    const std::span<const std::byte> buffer = buffers_.at(file);
    if (offset >= buffer.size()) return 0;
    const size_t count = std::min(to.size(), buffer.size() - static_cast<size_t>(offset));
    std::memcpy(to.data(), buffer.data() + offset, count);
    return count;
  }

 private:
  std::vector<std::span<const std::byte>> buffers_;
};

class MemorySink : public ByteSink {
 public:
  explicit MemorySink(std::vector<std::span<std::byte>> buffers) : buffers_(std::move(buffers)) {}
  void write(uint32_t file, uint64_t offset, std::span<const std::byte> from) override {
    const std::span<std::byte> buffer = buffers_.at(file);
    VIADUCT_CHECK(offset + from.size() <= buffer.size());
    std::memcpy(buffer.data() + offset, from.data(), from.size());
  }
  void finish() override {}

 private:
  std::vector<std::span<std::byte>> buffers_;
};

class CallbackSink : public ByteSink {
 public:
  using Callback = std::function<void(uint32_t, uint64_t, std::span<const std::byte>)>;
  explicit CallbackSink(Callback callback) : callback_(std::move(callback)) {}
  void write(uint32_t file, uint64_t offset, std::span<const std::byte> from) override {
    if (callback_) callback_(file, offset, from);
  }
  void finish() override {}

 private:
  Callback callback_;
};

}  // namespace

std::unique_ptr<ByteSource> memory_source(const std::vector<std::span<const std::byte>>& buffers) {
  return std::make_unique<MemorySource>(buffers);
}

std::unique_ptr<ByteSink> memory_sink(const std::vector<std::span<std::byte>>& buffers) {
  return std::make_unique<MemorySink>(buffers);
}

std::unique_ptr<ByteSink> callback_sink(
    std::function<void(uint32_t, uint64_t, std::span<const std::byte>)> callback) {
  return std::make_unique<CallbackSink>(std::move(callback));
}

std::unique_ptr<ByteSink> discard_sink() { return std::make_unique<CallbackSink>(nullptr); }

}  // namespace viaduct::bridge
