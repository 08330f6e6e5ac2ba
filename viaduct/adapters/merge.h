// Folding an adapter into its base: W + scaling B A (DoRA: with the rows brought to their learnt norm), while the
// base's weights pass through on their way to another checkpoint.
#pragma once

#include <memory>

#include "viaduct/adapters/adapter.h"
#include "viaduct/adapters/low_rank.h"
#include "viaduct/bridge/conversion.h"

namespace viaduct::adapters {

/// Makes `conversion`, an import or export of `base` that casts nothing, merge the adapter (opened with
/// PeftView::kUpdates). Tensors that the adapter does not name stay as they are, bit for bit. Numbers are float32:
/// products are summed in the order of the rank, multiplied by the scaling, added, and rounded once to the weight's
/// type. Row norms of DoRA are summed in float64 by a pass of its own over the weights. UserError when an adapted
/// weight has a type that is none of float32, bfloat16 and float16, or is not written by the conversion.
/// `base` and `adapter` outlive the conversion.
void merge_into(bridge::Conversion& conversion, const bridge::Checkpoint& base, const Adapter& adapter,
                Rounding rounding);

}  // namespace viaduct::adapters
