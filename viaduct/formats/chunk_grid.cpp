#include "viaduct/formats/chunk_grid.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "viaduct/core/error.h"

namespace viaduct::formats {

namespace {

// Work of the sweep below, in visits of chunks. Real grids need chunks * axes.
constexpr int64_t kMaxVisits = 50'000'000;

std::string box_text(const Shape& offset, const Shape& size) {
  std::string text = "[";
  for (int axis = 0; axis < offset.rank(); ++axis)
    text += fmt::format("{}{}:{}", axis > 0 ? ", " : "", offset[axis], offset[axis] + size[axis]);
  return text + "]";
}

class GridCheck {
 public:
  GridCheck(const StoredTensor& tensor, std::string_view origin) : tensor_(tensor), origin_(origin) {}

  void run() {
    const int rank = tensor_.shape.rank();
    std::vector<uint32_t> all;
    for (uint32_t i = 0; i < tensor_.chunks.size(); ++i) {
      const StoredChunk& chunk = tensor_.chunks[i];
      if (chunk.offset.rank() != rank || chunk.size.rank() != rank)
        fail(fmt::format("of shape {} has a chunk at {} of size {}: another number of axes", tensor_.shape,
                         chunk.offset, chunk.size));
      bool is_empty = false;
      for (int axis = 0; axis < rank; ++axis) {
        const int64_t from = chunk.offset[axis], size = chunk.size[axis], whole = tensor_.shape[axis];
        if (from < 0 || size < 0 || from > whole || size > whole - from)
          fail(fmt::format("of shape {} has a chunk at {} of size {}, which reaches outside", tensor_.shape,
                           chunk.offset, chunk.size));
        is_empty = is_empty || size == 0;
      }
      if (!is_empty) all.push_back(i);
    }
    if (num_elements(tensor_.shape) == 0) return;
    at_ = Shape::filled(rank, 0);
    size_ = tensor_.shape;
    sweep(0, all);
  }

 private:
  // The chunks in `active` all contain the slab [at_, at_ + size_) on the axes before `axis`; they must fill it.
  void sweep(int axis, std::vector<uint32_t>& active) {
    visits_ += static_cast<int64_t>(active.size()) + 1;
    if (visits_ > kMaxVisits) fail(fmt::format("of shape {} is cut into chunks too irregularly", tensor_.shape));
    if (active.empty())
      fail(fmt::format("of shape {}: no chunk holds the box {}", tensor_.shape, box_text(at_, size_)));
    if (axis == tensor_.shape.rank()) {
      if (active.size() == 1) return;
      const StoredChunk &a = tensor_.chunks[active[0]], &b = tensor_.chunks[active[1]];
      fail(fmt::format("of shape {}: two chunks, {} and {}, hold the box {}", tensor_.shape,
                       box_text(a.offset, a.size), box_text(b.offset, b.size), box_text(at_, size_)));
    }
    const auto from = [&](uint32_t i) { return tensor_.chunks[i].offset[axis]; };
    const auto to = [&](uint32_t i) { return tensor_.chunks[i].offset[axis] + tensor_.chunks[i].size[axis]; };
    const int64_t whole = tensor_.shape[axis];
    if (std::all_of(active.begin(), active.end(), [&](uint32_t i) { return from(i) == 0 && to(i) == whole; }))
      return sweep(axis + 1, active);

    std::sort(active.begin(), active.end(), [&](uint32_t a, uint32_t b) { return from(a) < from(b); });
    std::vector<uint32_t> open, inner;
    size_t next = 0;
    for (int64_t place = 0; place < whole;) {
      std::erase_if(open, [&](uint32_t i) { return to(i) <= place; });
      while (next < active.size() && from(active[next]) == place) open.push_back(active[next++]);
      int64_t end = next < active.size() ? from(active[next]) : whole;
      for (const uint32_t i : open) end = std::min(end, to(i));
      visits_ += static_cast<int64_t>(open.size());
      at_[axis] = place;
      size_[axis] = end - place;
      inner = open;
      sweep(axis + 1, inner);
      place = end;
    }
    at_[axis] = 0;
    size_[axis] = whole;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw UserError(fmt::format("{}: tensor {} {}", origin_, tensor_.name, what));
  }

  const StoredTensor& tensor_;
  std::string_view origin_;
  Shape at_, size_;
  int64_t visits_ = 0;
};

}  // namespace

void check_chunk_grid(const StoredTensor& tensor, std::string_view origin) {
  // Most tensors are one chunk.
  if (tensor.chunks.size() == 1 && tensor.chunks[0].size == tensor.shape &&
      tensor.chunks[0].offset == Shape::filled(tensor.shape.rank(), 0))
    return;
  GridCheck(tensor, origin).run();
}

}  // namespace viaduct::formats
