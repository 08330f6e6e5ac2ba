#include "viaduct/training/mp_rank_form.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include "viaduct/core/error.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/training/gathered_buffer.h"
#include "viaduct/training/mp_rank_model.h"
#include "viaduct/training/whole_tensors.h"

namespace viaduct::training {

using formats::PickleValue;
using formats::RankFolder;
using formats::StoredTensor;

namespace {

constexpr std::array<std::string_view, 2> kValues = {"optimizer", "opt_param_scheduler"};
constexpr std::string_view kState = "optimizer.state.", kBufferFile = "distrib_optim.pt";

// What megatron-core's optimizers sort parameters by.
struct GroupKind {
  bool expert = false;  // dealt out over expert-parallel ranks
  bool decays = true;
  friend bool operator==(const GroupKind&, const GroupKind&) = default;
};

std::string text_of(const GroupKind& kind) {
  return fmt::format("{}{}", kind.expert ? "experts' parameters " : "parameters ",
                     kind.decays ? "with weight decay" : "without weight decay");
}

bool flag(const PickleValue& dict, std::string_view key) {
  const PickleValue* value = dict.find(key);
  return value && value->kind() == PickleValue::Kind::kBool && value->as_bool();
}

GroupKind kind_of_group(const PickleValue& group, const std::string& where) {
  const PickleValue* decay = group.find("wd_mult");
  if (!decay) decay = group.find("weight_decay");
  const auto kind = decay ? decay->kind() : PickleValue::Kind::kNone;
  VIADUCT_USER_CHECK(kind == PickleValue::Kind::kInt || kind == PickleValue::Kind::kFloat, "{} has no wd_mult",
                     where);
  return {flag(group, "is_expert_parallel"), decay->as_double() != 0};
}

std::optional<int64_t> number_in(const PickleValue& dict, std::string_view key) {
  const PickleValue* value = dict.find(key);
  return value && value->kind() == PickleValue::Kind::kInt ? std::optional(value->as_int()) : std::nullopt;
}

bool is_list(const PickleValue& value) {
  return value.kind() == PickleValue::Kind::kList || value.kind() == PickleValue::Kind::kTuple;
}

// What a rank's optimizer remembers of one parameter, by name, and where it is in the file.
using States = std::map<std::string, const StoredTensor*>;
using TensorsByName = std::unordered_map<std::string_view, const StoredTensor*>;

class RankFiles {
 public:
  RankFiles(const Path& iteration, const PickleValue& args, const models::ArchSpec& arch, models::LayerKeys keys,
            const topology::Parallelism& sizes)
      : args_(args), model_(iteration, args, arch), whole_(arch, keys, sizes) {}

  MpRankState read() {
    for (const RankFolder& rank : model_.ranks()) read(rank);
    check_complete();
    state_.tensors = whole_.take();
    return std::move(state_);
  }

 private:
  // One of a rank's optimizers: its state dict, and how the names of its tensors begin.
  struct RankOptimizer {
    const PickleValue* entry = nullptr;
    std::string prefix;
    const PickleValue* groups = nullptr;
  };

  void read(const RankFolder& rank) {
    file_ = fmt::format("{}/{}", rank.name, formats::kRankFile);
    own_ = model_.tensors_of(rank, next_file());
    for (const RankTensor& tensor : own_) add(rank, "", tensor, tensor.stored);
    formats::TorchFileParts parts = formats::read_torch_parts(rank.file, "optimizer", kValues);
    set_file(parts.tensors, next_file());
    state_.files.push_back(rank.file);
    TensorsByName tensors;
    for (const StoredTensor& tensor : parts.tensors) tensors.emplace(tensor.name, &tensor);

    const std::vector<RankOptimizer> optimizers = optimizers_of(parts.values);
    const auto any_group = [&](auto&& is) {
      return std::ranges::any_of(
          optimizers, [&](const RankOptimizer& one) { return std::ranges::any_of(one.groups->items(), is); });
    };
    experts_apart_ = any_group([](const PickleValue& group) { return flag(group, "is_expert_parallel"); });
    // A distributed optimizer keeps its tensors, and which parameters are whose, out of this file.
    if (any_group([](const PickleValue& group) { return group.find("params") != nullptr; })) {
      size_t in_groups = 0;
      for (const RankOptimizer& optimizer : optimizers) in_groups += read_groups(rank, optimizer, tensors);
      VIADUCT_USER_CHECK(in_groups == own_.size(), "{}: its optimizer has {} parameters, its model {}", file_,
                         in_groups, own_.size());
    } else {
      read_buffers(rank, optimizers.size());
    }
    if (&rank == &model_.ranks().front()) state_.common = std::move(parts.values);
  }

  // Chained optimizers are a list: one of the dense parameters, one of those of experts that are dealt out.
  std::vector<RankOptimizer> optimizers_of(const PickleValue& values) const {
    const PickleValue* entry = values.find("optimizer");
    VIADUCT_USER_CHECK(entry && !entry->is_none(), "{}: no optimizer state", file_);
    std::vector<RankOptimizer> result;
    if (is_list(*entry)) {
      for (const PickleValue& one : entry->items())
        result.push_back({&one, fmt::format("optimizer.{}.", result.size())});
    } else {
      result.push_back({entry, "optimizer."});
    }
    for (RankOptimizer& one : result) {
      const PickleValue* inner = inner_of(*one.entry).second;
      one.groups = inner && inner->is_dict() ? inner->find("param_groups") : nullptr;
      VIADUCT_USER_CHECK(one.groups && is_list(*one.groups), "{}: {}param_groups is missing", file_, one.prefix);
      for (const PickleValue& group : one.groups->items())
        VIADUCT_USER_CHECK(group.is_dict(), "{}: {}param_groups holds {}", file_, one.prefix,
                           to_string(group.kind()));
    }
    return result;
  }

  // torch's optimizer is inside of those that keep main parameters; its key, and it.
  static std::pair<std::string, const PickleValue*> inner_of(const PickleValue& entry) {
    if (!entry.is_dict()) return {};
    for (const char* name : {"optimizer", "optimizer_state_dict"})
      if (const PickleValue* inner = entry.find(name)) return {fmt::format("{}.", name), inner};
    return {"", &entry};
  }

  // Returns how many parameters the groups have.
  size_t read_groups(const RankFolder& rank, const RankOptimizer& optimizer, const TensorsByName& tensors) {
    const std::string prefix = optimizer.prefix + inner_of(*optimizer.entry).first;
    std::string mains;  // how the names of main parameters begin
    for (const char* name : {"fp32_from_fp16_params", "fp32_from_fp16"})
      if (mains.empty() && optimizer.entry->find(name)) mains = fmt::format("{}{}.", optimizer.prefix, name);
    const std::map<int64_t, States> states = states_of(prefix + "state.", tensors);
    std::vector<GroupKind> kinds;
    size_t in_groups = 0;
    for (size_t g = 0; g < optimizer.groups->items().size(); ++g) {
      const PickleValue& group = optimizer.groups->items()[g];
      const std::string where = fmt::format("{}: {}param_groups.{}", file_, prefix, g);
      const PickleValue* numbers = group.find("params");
      VIADUCT_USER_CHECK(numbers && is_list(*numbers), "{} has no params", where);
      if (numbers->items().empty()) continue;
      const GroupKind kind = kind_of_group(group, where);
      VIADUCT_USER_CHECK(
          std::ranges::find(kinds, kind) == kinds.end(),
          "{} is a second group of {}: learning rates of their own for some parameters are not supported", where,
          text_of(kind));
      kinds.push_back(kind);
      const std::vector<const RankTensor*> members = members_of(kind);
      VIADUCT_USER_CHECK(numbers->items().size() == members.size(), "{} has {} {}, the rank's model has {}", where,
                         numbers->items().size(), text_of(kind), members.size());
      size_t halves = 0;
      for (size_t i = 0; i < members.size(); ++i) {
        const RankTensor& tensor = *members[i];
        const std::string place = fmt::format("{}, place {} ({})", where, i, tensor.stored.name);
        VIADUCT_USER_CHECK(numbers->items()[i].kind() == PickleValue::Kind::kInt, "{}: its number is {}", place,
                           numbers->items()[i].to_text(40));
        const int64_t number = numbers->items()[i].as_int();
        const auto found = states.find(number);
        VIADUCT_USER_CHECK(found != states.end() || states.empty(), "{}: nothing under {}state.{}", place, prefix,
                           number);
        if (found != states.end()) add_states(rank, tensor, found->second, place);
        if (mains.empty()) continue;
        const StoredTensor* main = &tensor.stored;  // of what is in full precision by itself
        if (tensor.stored.dtype != DType::kF32) {
          const std::string name = fmt::format("{}{}.{}", mains, g, halves++);
          const auto at = tensors.find(name);
          VIADUCT_USER_CHECK(at != tensors.end(), "{}: {} is missing", place, name);
          main = at->second;
        }
        add_state(rank, "fp32_param", tensor, *main, place);
      }
      in_groups += members.size();
    }
    return in_groups;
  }

  // By the parameters' numbers.
  static std::map<int64_t, States> states_of(const std::string& prefix, const TensorsByName& tensors) {
    std::map<int64_t, States> states;
    for (const auto& [name, tensor] : tensors) {
      if (!name.starts_with(prefix)) continue;
      int64_t number = 0;
      const char* last = name.data() + name.size();
      const auto [end, error] = std::from_chars(name.data() + prefix.size(), last, number);
      if (error != std::errc() || end == last || *end != '.') continue;
      const std::string state(end + 1, last);
      if (state != "step") states[number].emplace(state, tensor);
    }
    return states;
  }

  std::vector<const RankTensor*> members_of(const GroupKind& kind) const {
    const bool decay_of_qk_norms = args_.is_object() && flag(args_, "apply_wd_to_qk_layernorm");
    std::vector<const RankTensor*> members;
    for (const RankTensor& tensor : own_) {
      const std::string& name = tensor.stored.name;
      const auto contains = [&](std::string_view text) { return name.find(text) != std::string::npos; };
      const bool bare = tensor.stored.shape.rank() == 1 || name.ends_with(".bias");
      const bool qk_norm = contains("q_layernorm.") || contains("k_layernorm.");
      if (GroupKind{is_apart(tensor), !bare || (decay_of_qk_norms && qk_norm)} == kind) members.push_back(&tensor);
    }
    return members;
  }

  bool is_apart(const RankTensor& tensor) const { return experts_apart_ && tensor.expert; }

  void add_states(const RankFolder& rank, const RankTensor& tensor, const States& states,
                  const std::string& place) {
    if (names_.empty())
      for (const auto& [name, values] : states) names_.insert(name);
    for (const std::string& name : names_) {
      const auto found = states.find(name);
      VIADUCT_USER_CHECK(found != states.end(), "{}: no {}", place, name);
      add_state(rank, name, tensor, *found->second, place);
    }
  }

  void add_state(const RankFolder& rank, const std::string& name, const RankTensor& tensor,
                 const StoredTensor& values, const std::string& place) {
    VIADUCT_USER_CHECK(values.shape == tensor.stored.shape, "{}: {} has the shape {}, the parameter {}", place,
                       values.name, values.shape, tensor.stored.shape);
    VIADUCT_USER_CHECK(is_floating(values.dtype), "{}: {} is {}", place, values.name, values.dtype);
    add(rank, fmt::format("{}{}.", kState, name), tensor, values);
  }

  // distrib_optim.pt: of each buffer of the rank's optimizers main parameters and moments, as rows without shapes.
  void read_buffers(const RankFolder& rank, size_t optimizers) {
    const Path path = rank.file.parent_path() / kBufferFile;
    file_ = fmt::format("{}/{}", rank.name, kBufferFile);
    VIADUCT_USER_CHECK(std::filesystem::is_regular_file(path),
                       "{} is missing: the run had a distributed optimizer, whose state is there", file_);
    VIADUCT_USER_CHECK(!args_.is_object() || !flag(args_, "overlap_param_gather_with_optimizer_step"),
                       "{}: a run with --overlap-param-gather-with-optimizer-step, whose state is not supported",
                       file_);
    const auto reader = formats::open_torch_file(path, {.unknown_classes = true});
    std::map<std::pair<size_t, size_t>, States> buffers;  // by optimizer and buffer
    for (const StoredTensor& tensor : reader->tensors()) {
      const auto [optimizer, buffer, state] = buffer_name(tensor.name, optimizers > 1);
      buffers[{optimizer, buffer}].emplace(state, &tensor);
    }
    VIADUCT_USER_CHECK(!buffers.empty(), "{} holds no buffers", file_);
    for (const auto& [key, states] : buffers) {
      const std::vector<std::vector<const RankTensor*>> members = buffers_of(optimizers > 1 && key.first == 1);
      VIADUCT_USER_CHECK(key.second < members.size(), "{}: a buffer {}, and the rank's model makes {}", file_,
                         key.second, members.size());
      read_buffer(rank, members[key.second], states);
    }
    state_.files.push_back(path);
  }

  struct BufferName {
    size_t optimizer = 0, buffer = 0;
    std::string state;
  };
  // "[OPTIMIZER.]BUFFER.?.STATE"; "?" is a pair of types.
  BufferName buffer_name(const std::string& text, bool chained) const {
    BufferName name;
    std::string_view left = text;
    const auto number = [&](size_t& value) {
      const auto [end, error] = std::from_chars(left.data(), left.data() + left.size(), value);
      const bool good = error == std::errc() && end != left.data() + left.size() && *end == '.' && value < 4096;
      left.remove_prefix(good ? static_cast<size_t>(end - left.data()) + 1 : left.size());
    };
    if (chained) number(name.optimizer);
    number(name.buffer);
    VIADUCT_USER_CHECK(
        left.starts_with("?.") && left.find('.', 2) == std::string_view::npos && name.optimizer < 2,
        "{}: {} is not what megatron-core writes there since 2024. Load it in Megatron-LM and save it "
        "again, in the format torch_dist",
        file_, text);
    name.state = left.substr(2);
    return name;
  }

  // The parameters in each buffer: those of a chunk and a type.
  std::vector<std::vector<const RankTensor*>> buffers_of(bool apart) const {
    std::vector<std::vector<const RankTensor*>> buffers;
    for (const RankTensor& tensor : own_) {
      if (is_apart(tensor) != apart) continue;
      const auto same = [&](const std::vector<const RankTensor*>& buffer) {
        return buffer.front()->chunk == tensor.chunk && buffer.front()->stored.dtype == tensor.stored.dtype;
      };
      auto buffer = std::ranges::find_if(buffers, same);
      if (buffer == buffers.end()) buffer = buffers.insert(buffers.end(), std::vector<const RankTensor*>());
      buffer->push_back(&tensor);
    }
    return buffers;
  }

  void read_buffer(const RankFolder& rank, const std::vector<const RankTensor*>& members, const States& states) {
    std::vector<BufferedParameter> parameters;
    for (const RankTensor* tensor : members)
      parameters.push_back({num_elements(tensor->stored.shape), is_shared(*tensor)});
    const BufferPlaces places = gathered_places(parameters, bucket_size(rank, *members.front()));
    for (const auto& [state, values] : states) {
      const formats::StoredChunk& row = values->chunks.at(0);
      VIADUCT_USER_CHECK(values->shape.rank() == 1 && is_floating(values->dtype) &&
                             (row.strides.empty() || row.strides == row_major_strides(values->shape)),
                         "{}: {} is {} {}, not a row of numbers", file_, values->name, values->dtype,
                         values->shape);
      VIADUCT_USER_CHECK(values->shape[0] == places.length,
                         "{}: {} has {} elements, the parameters of {} and those beside it make {}: it was written "
                         "for another model, or with other buckets than the args say",
                         file_, values->name, values->shape[0], members.front()->stored.name, places.length);
      for (size_t i = 0; i < members.size(); ++i) {
        const RankTensor& tensor = *members[i];
        StoredTensor part{values->name, values->dtype, tensor.stored.shape, {}};
        part.chunks.push_back({Shape::filled(part.shape.rank(), 0),
                               part.shape,
                               next_file(),
                               row.byte_offset + static_cast<uint64_t>(num_bytes(values->dtype, places.begins[i])),
                               {}});
        add(rank, fmt::format("{}{}.", kState, state), tensor, part);
      }
    }
  }

  // The embedding that the first stage shares with another one.
  bool is_shared(const RankTensor& tensor) const {
    if (!tensor.parameter || !tensor.parameter->vocabulary || model_.layout().pp() == 1) return false;
    const bool predicts = args_.is_object() && number_in(args_, "mtp_num_layers").value_or(0) > 0;
    return tensor.parameter->place == models::Place::kFirstStage && (model_.arch().embedding.tied || predicts);
  }

  // After how many elements a bucket ends. (Only where gradients are reduced on the way is there more than one, and
  // only in the first chunk of the first stage.)
  std::optional<int64_t> bucket_size(const RankFolder& rank, const RankTensor& first) const {
    if (!args_.is_object() || !flag(args_, "overlap_grad_reduce")) return std::nullopt;
    if (model_.layout().pp_of(rank) > 0 || first.chunk > 0) return std::nullopt;
    const auto number = [&](const char* name) { return number_in(args_, name); };
    if (const auto buckets = number("ddp_num_buckets"); buckets && *buckets > 0) {
      int64_t elements = 0;
      for (const RankTensor& tensor : own_) elements += num_elements(tensor.stored.shape);
      return elements / *buckets;
    }
    if (const auto size = number("ddp_bucket_size")) return size;
    const int64_t replicas = number("data_parallel_size").value_or(1) * number("context_parallel_size").value_or(1);
    return std::max<int64_t>(40'000'000, 1'000'000 * replicas);
  }

  void add(const RankFolder& rank, const std::string& prefix, const RankTensor& tensor,
           const StoredTensor& values) {
    if (tensor.copy) return;
    const bridge::MpRankLayout& layout = model_.layout();
    whole_.add(prefix, *tensor.parameter, layout.shards_of(*tensor.parameter),
               layout.shard_of(*tensor.parameter, rank), values);
  }

  // Every part of the weights has its states.
  void check_complete() const {
    for (const auto& [prefix, parts] : whole_.parts())
      for (const auto& [parameter, shard] : whole_.parts().at(""))
        VIADUCT_USER_CHECK(parts.contains({parameter, shard}), "{}{} is missing for tensor-parallel rank {}",
                           prefix, parameter, shard);
  }

  uint32_t next_file() const { return static_cast<uint32_t>(state_.files.size()); }

  const PickleValue& args_;
  MpRankModel model_;
  WholeTensors whole_;
  MpRankState state_;
  // Of the rank that is being read.
  std::string file_;             // for messages
  std::vector<RankTensor> own_;  // its parameters
  bool experts_apart_ = false;   // experts have an optimizer of their own
  std::set<std::string> names_;  // of the states that every parameter has
};

}  // namespace

MpRankState read_mp_ranks(const Path& iteration, const PickleValue& args, const models::ArchSpec& arch,
                          models::LayerKeys keys, const topology::Parallelism& sizes) {
  return RankFiles(iteration, args, arch, keys, sizes).read();
}

}  // namespace viaduct::training
