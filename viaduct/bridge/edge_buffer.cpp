#include "viaduct/bridge/edge_buffer.h"

#include <algorithm>
#include <tuple>

#include "viaduct/core/error.h"

namespace viaduct::bridge {

void EdgeBuffer::add(uint32_t file, uint64_t offset, std::span<const std::byte> bytes) {
  VIADUCT_CHECK_LE(bytes.size(), kBytes);
  std::unique_lock lock(mutex_);
  while (filling_.bytes.size() + bytes.size() > kBytes || filling_.pieces.size() >= kBytes / 64) {
    lock.unlock();
    flush();
    lock.lock();
  }
  if (filling_.bytes.capacity() < kBytes) filling_.bytes.reserve(kBytes);
  filling_.pieces.push_back({file, static_cast<uint32_t>(bytes.size()), offset, filling_.bytes.size()});
  filling_.bytes.insert(filling_.bytes.end(), bytes.begin(), bytes.end());
}

void EdgeBuffer::flush() {
  const std::lock_guard writing(writing_mutex_);
  {
    const std::lock_guard lock(mutex_);
    std::swap(filling_, writing_);
  }
  write_out(writing_);
  writing_.pieces.clear();
  writing_.bytes.clear();
}

void EdgeBuffer::write_out(Batch& batch) {
  std::sort(batch.pieces.begin(), batch.pieces.end(),
            [](const Piece& a, const Piece& b) { return std::tie(a.file, a.offset) < std::tie(b.file, b.offset); });
  for (size_t i = 0; i < batch.pieces.size();) {
    const Piece& first = batch.pieces[i];
    uint64_t end = first.offset + first.size;
    size_t next = i + 1;
    for (; next < batch.pieces.size() && batch.pieces[next].file == first.file && batch.pieces[next].offset == end;
         ++next)
      end += batch.pieces[next].size;
    const std::byte* const bytes = batch.bytes.data();
    if (next == i + 1) {
      write_(first.file, first.offset, {bytes + first.at, first.size});
    } else {
      run_.clear();
      for (size_t k = i; k < next; ++k)
        run_.insert(run_.end(), bytes + batch.pieces[k].at, bytes + batch.pieces[k].at + batch.pieces[k].size);
      write_(first.file, first.offset, run_);
    }
    i = next;
  }
}

}  // namespace viaduct::bridge
