#include "viaduct/bridge/mp_rank_layout.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "viaduct/config/megatron_args.h"
#include "viaduct/core/error.h"
#include "viaduct/models/pipeline_options.h"

namespace viaduct::bridge {

using formats::PickleValue;
using formats::RankFolder;

namespace {

// A number in a name: decoder.layers.<N>, weight<N>.
std::optional<int64_t> number_at(std::string_view text, size_t at, size_t& end) {
  int64_t number = 0;
  const auto result = std::from_chars(text.data() + at, text.data() + text.size(), number);
  if (result.ec != std::errc() || number < 0 || number > 1'000'000) return std::nullopt;
  end = static_cast<size_t>(result.ptr - text.data());
  return number;
}

}  // namespace

std::optional<LocalName> local_name(std::string_view stored) {
  constexpr std::string_view kModel = "model";
  const size_t dot = stored.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  LocalName result;
  if (dot > kModel.size()) {
    size_t end = 0;
    const auto chunk = number_at(stored, kModel.size(), end);
    if (!chunk || end != dot || *chunk > 1024) return std::nullopt;
    result.chunk = static_cast<int>(*chunk);
  }
  result.name = stored.substr(dot + 1);
  if (result.name.starts_with("module.")) result.name.erase(0, 7);
  return result;
}

MpRankLayout::MpRankLayout(const Path& iteration, const std::vector<RankFolder>& ranks, const PickleValue& args,
                           const models::ArchSpec& arch)
    : iteration_(iteration), ranks_(ranks), arch_(arch) {
  find_sizes(args);
  check_folders();
}

void MpRankLayout::find_sizes(const PickleValue& args) {
  topology::PipelineOptions options;
  if (config::is_namespace(args)) {
    const config::ModelConfig provider = config::model_config_from_args(args, ranks_.front().file.string());
    const auto size = [&](int64_t value, const char* name) {
      VIADUCT_USER_CHECK(value >= 1 && value <= 1 << 20, "{}: args.{} is {}", ranks_.front().file.string(), name,
                         value);
      return static_cast<int>(value);
    };
    tp_ = size(provider.tensor_model_parallel_size, "tensor_model_parallel_size");
    pp_ = size(provider.pipeline_model_parallel_size, "pipeline_model_parallel_size");
    ep_ = size(provider.expert_model_parallel_size, "expert_model_parallel_size");
    etp_ = size(provider.expert_tensor_parallel_size.value_or(tp_), "expert_tensor_parallel_size");
    options = models::pipeline_options(provider, arch_);
  } else {
    tp_ = etp_ = ranks_.back().tp + 1;
    for (const RankFolder& rank : ranks_)
      if (!rank.further.empty()) pp_ = std::max(pp_, rank.further[0] + 1);
    for (const RankFolder& rank : ranks_) ep_ = std::max(ep_, ep_of(rank) + 1);
    options.num_layers = static_cast<int>(arch_.num_layers());
    options.pipeline_model_parallel_size = pp_;
  }
  VIADUCT_USER_CHECK(
      tp_ % etp_ == 0,
      "{}: expert_tensor_parallel_size {} does not divide tensor_model_parallel_size {}: such ranks write "
      "into each other's folders in the torch format",
      iteration_.string(), etp_, tp_);
  pipeline_.emplace(options);
  if (const models::LayerSpec* layer = arch_.moe_layer()) num_experts_ = layer->moe->num_experts;
  VIADUCT_USER_CHECK(num_experts_ % ep_ == 0 || num_experts_ == 0, "{}: {} experts among {} expert-parallel ranks",
                     iteration_.string(), num_experts_, ep_);
}

// Where experts are cut as all else is, every combination of ranks has a folder of its own.
void MpRankLayout::check_folders() const {
  const size_t numbers = (pp_ > 1 ? 1u : 0u) + (ep_ > 1 ? 1u : 0u);
  VIADUCT_USER_CHECK(
      ranks_.front().further.size() == numbers,
      "{}: the folder {} does not fit the layout in its args: tensor-parallel {}, pipeline-parallel {}, "
      "expert-parallel {}",
      iteration_.string(), ranks_.front().name, tp_, pp_, ep_);
  std::vector<std::string> strays;
  std::vector<bool> there(static_cast<size_t>(tp_) * static_cast<size_t>(pp_));
  for (const RankFolder& rank : ranks_) {
    if (rank.tp >= tp_ || pp_of(rank) >= pp_ || ep_of(rank) >= ep_) {
      strays.push_back(rank.name);
    } else {
      there[static_cast<size_t>(rank.tp) * static_cast<size_t>(pp_) + static_cast<size_t>(pp_of(rank))] = true;
    }
  }
  VIADUCT_USER_CHECK(strays.empty(),
                     "{}: {} {} outside of the layout in the args (tensor-parallel {}, pipeline-parallel {}, "
                     "expert-parallel {}); move it away if it is of another run",
                     iteration_.string(), fmt::join(strays, ", "), strays.size() == 1 ? "lies" : "lie", tp_, pp_,
                     ep_);
  std::vector<std::string> missing;
  const auto name = [&](int tp, int pp) {
    std::string text = fmt::format("mp_rank_{:02}", tp);
    if (pp_ > 1) text += fmt::format("_{:03}", pp);
    return ep_ > 1 ? text + "_*" : text;
  };
  if (ep_ > 1 && etp_ == tp_) {
    VIADUCT_USER_CHECK(
        ranks_.size() == there.size() * static_cast<size_t>(ep_),
        "{} holds {} mp_rank_* folders; tensor-parallel {}, pipeline-parallel {} and expert-parallel {} "
        "make {}: one is missing",
        iteration_.string(), ranks_.size(), tp_, pp_, ep_, there.size() * static_cast<size_t>(ep_));
  }
  for (size_t i = 0; i < there.size(); ++i)
    if (!there[i]) missing.push_back(name(static_cast<int>(i) / pp_, static_cast<int>(i) % pp_));
  VIADUCT_USER_CHECK(missing.empty(), "{}: missing: {} (tensor-parallel {}, pipeline-parallel {})",
                     iteration_.string(), fmt::join(missing, ", "), tp_, pp_);
}

std::string MpRankLayout::global_name(const RankFolder& rank, const LocalName& local) const {
  std::string name = local.name;
  constexpr std::string_view kExperts = ".mlp.experts.", kSingle = "local_experts.";
  const std::string layers = arch_.language_module + "decoder.layers.";
  size_t end = 0;
  if (name.starts_with(layers)) {
    if (const auto layer = number_at(name, layers.size(), end)) {
      VIADUCT_USER_CHECK(local.chunk < pipeline_->vpp(), "{}: model{} is no chunk of a pipeline with {} a stage",
                         rank.file.string(), local.chunk, pipeline_->vpp());
      const topology::Pipeline::Chunk chunk{pp_of(rank), local.chunk};
      name.replace(layers.size(), end - layers.size(), std::to_string(*layer + pipeline_->first_layer_of(chunk)));
    }
  }
  const size_t at = name.find(kExperts);
  if (at == std::string::npos || num_experts_ == 0) return name;
  const int64_t first = ep_of(rank) * (num_experts_ / ep_);
  const size_t behind = at + kExperts.size();
  if (name.compare(behind, kSingle.size(), kSingle) == 0) {
    // One module an expert: local_experts.3.linear_fc1.weight is linear_fc1.weight3.
    if (const auto expert = number_at(name, behind + kSingle.size(), end); expert && end < name.size())
      return name.substr(0, behind) + name.substr(end + 1) + std::to_string(*expert + first);
    return name;
  }
  const size_t digits = name.find_last_not_of("0123456789") + 1;
  if (digits == name.size()) return name;
  if (const auto expert = number_at(name, digits, end))
    name.replace(digits, std::string::npos, std::to_string(*expert + first));
  return name;
}

}  // namespace viaduct::bridge
