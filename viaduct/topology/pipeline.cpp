#include "viaduct/topology/pipeline.h"

#include <algorithm>
#include <numeric>

#include "viaduct/core/error.h"

namespace viaduct::topology {

namespace {

constexpr int kMostChunks = 1 << 20;

}  // namespace

void PipelineOptions::set_split(const PipelineSplit& split) {
  num_layers_in_first_pipeline_stage = split.num_layers_in_first_pipeline_stage;
  num_layers_in_last_pipeline_stage = split.num_layers_in_last_pipeline_stage;
  account_for_embedding_in_pipeline_split = split.account_for_embedding_in_pipeline_split;
  account_for_loss_in_pipeline_split = split.account_for_loss_in_pipeline_split;
  pipeline_model_parallel_layout = split.pipeline_model_parallel_layout;
}

Pipeline::Pipeline(const PipelineOptions& options)
    : num_layers_(options.num_layers),
      pp_(options.pipeline_model_parallel_size),
      vpp_(options.virtual_pipeline_model_parallel_size) {
  VIADUCT_USER_CHECK(num_layers_ >= 1, "num_layers is {}; it must be 1 or more", num_layers_);
  VIADUCT_USER_CHECK(options.mtp_num_layers >= 0, "mtp_num_layers is {}; it must be 0 or more",
                     options.mtp_num_layers);
  VIADUCT_USER_CHECK(pp_ >= 1, "pipeline_model_parallel_size is {}; it must be 1 or more", pp_);
  VIADUCT_USER_CHECK(vpp_ >= 1, "virtual_pipeline_model_parallel_size is {}; it must be 1 or more", vpp_);
  VIADUCT_USER_CHECK(pp_ <= kMostChunks / vpp_,
                     "pipeline_model_parallel_size {} * virtual_pipeline_model_parallel_size {} is too large", pp_,
                     vpp_);
  VIADUCT_USER_CHECK(vpp_ == 1 || pp_ > 1,
                     "virtual_pipeline_model_parallel_size is {}, but pipeline_model_parallel_size is 1", vpp_);
  const bool has_uneven = options.num_layers_in_first_pipeline_stage || options.num_layers_in_last_pipeline_stage;
  const bool has_account =
      options.account_for_embedding_in_pipeline_split || options.account_for_loss_in_pipeline_split;
  VIADUCT_USER_CHECK(!options.pipeline_model_parallel_layout || (!has_uneven && !has_account),
                     "pipeline_model_parallel_layout cannot be set together with num_layers_in_first/"
                     "last_pipeline_stage or account_for_embedding/loss_in_pipeline_split");
  VIADUCT_USER_CHECK(!has_uneven || !has_account,
                     "num_layers_in_first/last_pipeline_stage cannot be set together with "
                     "account_for_embedding/loss_in_pipeline_split");
  if (options.pipeline_model_parallel_layout) {
    place_by_layout(options);
  } else {
    place_evenly(options);
    if (options.mtp_num_layers > 0) mtp_ = loss();
  }
  begins_.assign(counts_.size() + 1, 0);
  std::partial_sum(counts_.begin(), counts_.end(), begins_.begin() + 1);
  VIADUCT_CHECK_EQ(begins_.back(), num_layers_, "layers placed");
}

void Pipeline::place_evenly(const PipelineOptions& options) {
  // Layers of each pipeline rank; the embedding and the loss count as one each where they are accounted for.
  std::vector<int> of_rank(static_cast<size_t>(pp_), 0);
  const std::optional<int>& first = options.num_layers_in_first_pipeline_stage;
  const std::optional<int>& last = options.num_layers_in_last_pipeline_stage;
  int64_t middle_layers = num_layers_;
  if (options.account_for_embedding_in_pipeline_split) ++middle_layers;
  if (options.account_for_loss_in_pipeline_split) ++middle_layers;
  int middle_ranks = pp_;
  VIADUCT_USER_CHECK(!first || *first >= 1, "num_layers_in_first_pipeline_stage is {}; it must be 1 or more",
                     *first);
  VIADUCT_USER_CHECK(!last || *last >= 1, "num_layers_in_last_pipeline_stage is {}; it must be 1 or more", *last);
  for (const std::optional<int>* given : {&first, &last}) {
    if (!*given) continue;
    middle_layers -= **given;
    --middle_ranks;
  }
  VIADUCT_USER_CHECK(middle_ranks >= 0 && middle_layers >= 0 && (middle_ranks == 0) == (middle_layers == 0),
                     "num_layers_in_first/last_pipeline_stage leave {} of {} layers for {} of {} pipeline stages",
                     middle_layers, num_layers_, middle_ranks, pp_);
  if (middle_ranks > 0) {
    VIADUCT_USER_CHECK(middle_layers % middle_ranks == 0,
                       "{} layers{} cannot be spread evenly over {} pipeline stages{}: choose a "
                       "pipeline_model_parallel_size that divides them, or set num_layers_in_first/"
                       "last_pipeline_stage or pipeline_model_parallel_layout",
                       middle_layers, middle_layers == num_layers_ ? "" : " (what the given options leave or add)",
                       middle_ranks, middle_ranks == pp_ ? "" : " (those without a given number)");
    std::fill(of_rank.begin(), of_rank.end(), static_cast<int>(middle_layers / middle_ranks));
  }
  if (first) of_rank.front() = *first;
  if (last) of_rank.back() = *last;

  counts_.assign(static_cast<size_t>(pp_) * static_cast<size_t>(vpp_), 0);
  for (int rank = 0; rank < pp_; ++rank) {
    const int layers = of_rank[static_cast<size_t>(rank)];
    VIADUCT_USER_CHECK(layers % vpp_ == 0,
                       "the {} layers of pipeline stage {} cannot be spread evenly over "
                       "virtual_pipeline_model_parallel_size {} model chunks",
                       layers, rank, vpp_);
    for (int chunk = 0; chunk < vpp_; ++chunk) counts_[position({rank, chunk})] = layers / vpp_;
  }
  if (options.account_for_embedding_in_pipeline_split) --counts_.front();
  if (options.account_for_loss_in_pipeline_split) --counts_.back();
  VIADUCT_USER_CHECK(counts_.front() >= 0 && counts_.back() >= 0,
                     "account_for_embedding/loss_in_pipeline_split: {} layers are too few for {} pipeline stages",
                     num_layers_, pp_);
}

void Pipeline::place_by_layout(const PipelineOptions& options) {
  const StageList& stages = *options.pipeline_model_parallel_layout;
  const std::string text = to_string(stages);
  const auto check = [&text](bool condition, const std::string& problem) {
    VIADUCT_USER_CHECK(condition, "pipeline_model_parallel_layout \"{}\": {}", text, problem);
  };
  check(!stages.empty() && stages.size() % static_cast<size_t>(pp_) == 0,
        fmt::format("its {} stages are no multiple of pipeline_model_parallel_size {}", stages.size(), pp_));
  const int chunks = static_cast<int>(stages.size()) / pp_;
  check(vpp_ == 1 || vpp_ == chunks,
        fmt::format("its {} stages on {} pipeline ranks make {} model chunks a rank, and "
                    "virtual_pipeline_model_parallel_size is {}",
                    stages.size(), pp_, chunks, vpp_));
  vpp_ = chunks;

  std::vector<LayerKind> flat;
  for (const auto& stage : stages) {
    flat.insert(flat.end(), stage.begin(), stage.end());
    counts_.push_back(static_cast<int>(std::count(stage.begin(), stage.end(), LayerKind::kTransformer)));
  }
  const auto count = [&flat](LayerKind kind) { return std::count(flat.begin(), flat.end(), kind); };
  check(count(LayerKind::kEmbedding) == 1 && !stages.front().empty() && flat.front() == LayerKind::kEmbedding,
        "the embedding (E) must stand first in the first stage, and only there");
  check(count(LayerKind::kLoss) == 1 && !stages.back().empty() && flat.back() == LayerKind::kLoss,
        "the loss (L) must stand last in the last stage, and only there");
  check(count(LayerKind::kTransformer) == num_layers_,
        fmt::format("it has {} transformer layers (t), and num_layers is {}", count(LayerKind::kTransformer),
                    num_layers_));
  check(count(LayerKind::kMtp) == options.mtp_num_layers,
        fmt::format("it has {} MTP layers (m), and mtp_num_layers is {}", count(LayerKind::kMtp),
                    options.mtp_num_layers));
  const auto first_mtp = std::find(flat.begin(), flat.end(), LayerKind::kMtp);
  check(std::find(first_mtp, flat.end(), LayerKind::kTransformer) == flat.end(),
        "MTP layers (m) must stand behind all transformer layers (t)");
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    const auto here = std::count(stages[stage].begin(), stages[stage].end(), LayerKind::kMtp);
    if (here == 0) continue;
    check(here == options.mtp_num_layers, "all MTP layers (m) must be in one stage");
    mtp_ = Chunk{static_cast<int>(stage) % pp_, static_cast<int>(stage) / pp_};
    check(mtp_->chunk == vpp_ - 1, "MTP layers (m) must be in a pipeline rank's last model chunk");
  }
}

size_t Pipeline::position(const Chunk& chunk) const {
  VIADUCT_CHECK(chunk.pp_rank >= 0 && chunk.pp_rank < pp_ && chunk.chunk >= 0 && chunk.chunk < vpp_,
                "chunk {} of pipeline rank {}", chunk.chunk, chunk.pp_rank);
  return static_cast<size_t>(chunk.chunk) * static_cast<size_t>(pp_) + static_cast<size_t>(chunk.pp_rank);
}

Pipeline::Place Pipeline::place_of(int layer) const {
  VIADUCT_CHECK(layer >= 0 && layer < num_layers_, "layer {} of {}", layer, num_layers_);
  const auto it = std::upper_bound(begins_.begin(), begins_.end(), layer) - 1;
  const auto stage = static_cast<int>(it - begins_.begin());
  return {{stage % pp_, stage / pp_}, layer - *it};
}

int Pipeline::layer_at(const Place& place) const {
  const size_t stage = position(place.chunk);
  VIADUCT_CHECK(place.index >= 0 && place.index < counts_[stage], "layer {} of a chunk with {}", place.index,
                counts_[stage]);
  return begins_[stage] + place.index;
}

int Pipeline::layers_in(const Chunk& chunk) const { return counts_[position(chunk)]; }
int Pipeline::first_layer_of(const Chunk& chunk) const { return begins_[position(chunk)]; }

Pipeline::Chunk Pipeline::final_norm() const { return mtp_ ? place_of(num_layers_ - 1).chunk : loss(); }

}  // namespace viaduct::topology
