#include "viaduct/data/blend_index.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace viaduct::data {

namespace {

// Draws samples one by one, always from the dataset that is farthest behind its share.
class Draw {
 public:
  Draw(std::span<const double> shares, int64_t size) : shares_(shares), drawn_(shares.size()) {
    dataset_.reserve(static_cast<size_t>(size));
    sample_.reserve(static_cast<size_t>(size));
  }

  // From one of `open`; returns its place there.
  size_t from(std::span<const size_t> open) {
    const double position = std::max(static_cast<double>(dataset_.size()), 1.0);
    const auto behind = [&](size_t id) { return shares_[id] * position - static_cast<double>(drawn_[id]); };
    size_t best = 0;
    double most = behind(open[0]);
    for (size_t i = 1; i < open.size(); ++i) {
      const double error = behind(open[i]);
      if (error > most) most = error, best = i;
    }
    dataset_.push_back(static_cast<int16_t>(open[best]));
    sample_.push_back(drawn_[open[best]]++);
    return best;
  }

  int64_t drawn(size_t id) const { return drawn_[id]; }
  BlendIndex index() && {
    const auto size = static_cast<int64_t>(dataset_.size());
    return {{std::move(dataset_), DType::kI16, {size}}, {std::move(sample_), DType::kI64, {size}}};
  }

 private:
  std::span<const double> shares_;
  std::vector<int64_t> drawn_;
  std::vector<int16_t> dataset_;
  std::vector<int64_t> sample_;
};

std::vector<size_t> all(size_t count) {
  std::vector<size_t> ids(count);
  std::iota(ids.begin(), ids.end(), size_t{0});
  return ids;
}

}  // namespace

BlendIndex build_blend_index(std::span<const double> shares, int64_t size) {
  Draw draw(shares, size);
  const std::vector<size_t> open = all(shares.size());
  for (int64_t i = 0; i < size; ++i) draw.from(open);
  return std::move(draw).index();
}

BlendIndex build_exhaustive_blend_index(std::span<const int64_t> sizes) {
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  std::vector<double> shares;
  for (const int64_t size : sizes) shares.push_back(static_cast<double>(size) / static_cast<double>(total));
  Draw draw(shares, total);
  std::vector<size_t> open = all(sizes.size());
  while (!open.empty()) {
    const size_t place = draw.from(open);
    if (draw.drawn(open[place]) == sizes[open[place]]) open.erase(open.begin() + static_cast<ptrdiff_t>(place));
  }
  return std::move(draw).index();
}

}  // namespace viaduct::data
