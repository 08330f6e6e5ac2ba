// Which dataset of a blend gives each sample: the choice that keeps all of them nearest to their shares.
#pragma once

#include <cstdint>
#include <span>

#include "viaduct/formats/npy.h"

namespace viaduct::data {

/// The two indexes of a blend, owned or mapped from a cache.
struct BlendIndex {
  formats::NpyArray dataset;         // [size] int16
  formats::NpyArray dataset_sample;  // [size] int64: which of that dataset's samples
};

/// `size` samples in these shares, which sum up to 1.
BlendIndex build_blend_index(std::span<const double> shares, int64_t size);
/// All samples of datasets of these sizes.
BlendIndex build_exhaustive_blend_index(std::span<const int64_t> sizes);

}  // namespace viaduct::data
