#include "viaduct/models/gguf_tensors.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "viaduct/models/gguf_architecture.h"

namespace viaduct::models {

namespace {

using formats::GgufFile;
using formats::StoredTensor;
using layout::Expr;

constexpr GgufTensorName kModelNames[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};

// "3" of "blk.3.", or nothing when it is no number below `blocks` as the format writes it.
bool is_block_number(std::string_view text, int64_t blocks) {
  int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && number < blocks &&
         text == std::to_string(number);
}

// Which row of the tables a tensor's name belongs to.
struct Match {
  const GgufTensorName* row = nullptr;
  std::string_view block;  // "blk.3."; empty outside of blocks
  std::string hf_name;     // with the "*" of an expert
};

class TensorNames {
 public:
  TensorNames(const GgufFile& file, const GgufArchitecture& arch, GgufModel& model)
      : file_(file), arch_(arch), model_(model) {
    const GgufKeys keys(file, arch.name);
    heads_ = arch.read_heads(keys);
    blocks_ = keys.required_size("block_count");
  }

  void add(const StoredTensor& stored) {
    const std::optional<Match> match = find(stored.name);
    if (!match)
      fail_gguf(file_, "tensor {} is none of a {} model with {} layers", stored.name, arch_.name, blocks_);
    if (arch_.norm_offset != 0 && stored.name.ends_with("norm.weight"))
      model_.offsets.emplace(stored.name, -arch_.norm_offset);
    try {
      add(stored, *match);
    } catch (const UserError& error) {
      fail_gguf(file_, "tensor {}: {}", stored.name, error.what());
    }
  }

 private:
  std::optional<Match> find(std::string_view name) const;
  void add(const StoredTensor& stored, const Match& match);
  void add_experts(const StoredTensor& stored, const Match& match);
  const StoredTensor& partner(const Match& match, GgufForm form) const;
  void put(std::string name, Expr expr) {
    const auto [it, fresh] = model_.tensors.emplace(std::move(name), std::move(expr));
    VIADUCT_USER_CHECK(fresh, "{} is made of {} too; convert the original model to GGUF again", it->first,
                       it->second.inputs().at(0).name);
  }

  const GgufFile& file_;
  const GgufArchitecture& arch_;
  GgufModel& model_;
  GgufHeads heads_;
  int64_t blocks_ = 0;
};

std::optional<Match> TensorNames::find(std::string_view name) const {
  const size_t last_dot = name.rfind('.');
  if (last_dot == std::string_view::npos) return std::nullopt;
  const std::string_view kind = name.substr(last_dot);
  if (kind != ".weight" && kind != ".bias") return std::nullopt;
  if (!name.starts_with("blk.")) {
    for (const GgufTensorName& row : kModelNames)
      if (name.substr(0, last_dot) == row.gguf) return Match{&row, {}, fmt::format("{}{}", row.hf, kind)};
    return std::nullopt;
  }
  const size_t dot = name.find('.', 4);
  const std::string_view number = name.substr(4, dot - 4);
  if (dot >= last_dot || !is_block_number(number, blocks_)) return std::nullopt;
  const std::string_view part = name.substr(dot + 1), stem = name.substr(dot + 1, last_dot - dot - 1);
  for (const auto rows : arch_.tensors)
    for (const GgufTensorName& row : rows) {
      if (row.gguf != part && row.gguf != stem) continue;
      return Match{&row, name.substr(0, dot + 1),
                   fmt::format("model.layers.{}.{}{}", number, row.hf, row.gguf == stem ? kind : "")};
    }
  return std::nullopt;
}

// The other part of the tensor that `match` is a part of.
const StoredTensor& TensorNames::partner(const Match& match, GgufForm form) const {
  for (const auto rows : arch_.tensors)
    for (const GgufTensorName& row : rows) {
      if (row.form != form || row.hf != match.row->hf) continue;
      const std::string name = fmt::format("{}{}", match.block, row.gguf);
      const StoredTensor* found = file_.find(name);
      VIADUCT_USER_CHECK(found != nullptr, "the tensor {} that belongs to it is missing", name);
      return *found;
    }
  throw InternalError(fmt::format("{} has no other part", match.row->gguf));
}

void TensorNames::add_experts(const StoredTensor& stored, const Match& match) {
  const Shape& shape = stored.shape;
  // Without elements the number of experts would have no bound.
  VIADUCT_USER_CHECK(shape.rank() == 3 && num_elements(shape) > 0,
                     "its shape is {}, expected [experts, rows, columns]", shape);
  const bool both = match.row->form == GgufForm::kBothExperts;
  VIADUCT_USER_CHECK(!both || shape[1] % 2 == 0, "its {} rows cannot be gate and up", shape[1]);
  const Expr all = Expr::input(stored.name, shape);
  const int64_t rows = both ? shape[1] / 2 : shape[1];
  for (int64_t expert = 0; expert < shape[0]; ++expert) {
    std::string name = match.hf_name;
    name.replace(name.find('*'), 1, std::to_string(expert));
    const auto part = [&](int64_t first) {
      return all.slice(0, expert, 1).slice(1, first, rows).reshape({rows, shape[2]});
    };
    if (!both) {
      put(std::move(name), part(0));
      continue;
    }
    constexpr std::string_view kBoth = "gate_up_proj";
    const size_t at = name.find(kBoth);
    put(std::string(name).replace(at, kBoth.size(), "gate_proj"), part(0));
    put(name.replace(at, kBoth.size(), "up_proj"), part(rows));
  }
}

void TensorNames::add(const StoredTensor& stored, const Match& match) {
  const auto swap_last = [](const Expr& expr) {
    return expr.shape().rank() == 3 ? expr.transpose({0, 2, 1}) : expr;
  };
  const Expr whole = Expr::input(stored.name, stored.shape);
  switch (match.row->form) {
    case GgufForm::kSame: return put(match.hf_name, whole);
    case GgufForm::kQuery: return put(match.hf_name, undo_rotary_permutation(whole, heads_.query));
    case GgufForm::kKey: return put(match.hf_name, undo_rotary_permutation(whole, heads_.key_value));
    case GgufForm::kExperts:
    case GgufForm::kBothExperts: return add_experts(stored, match);
    case GgufForm::kDown: return put(match.hf_name, swap_last(whole));
    case GgufForm::kValueUp: partner(match, GgufForm::kKeyUp); return;
    case GgufForm::kUp: partner(match, GgufForm::kGate); return;
    case GgufForm::kKeyUp: {
      const StoredTensor& value = partner(match, GgufForm::kValueUp);
      VIADUCT_USER_CHECK(stored.shape.rank() == 3, "its shape is {}, expected [heads, rank, columns]",
                         stored.shape);
      const Expr rows = Expr::concat(1, {whole.transpose({0, 2, 1}), Expr::input(value.name, value.shape)});
      return put(match.hf_name, rows.reshape({rows.shape()[0] * rows.shape()[1], rows.shape()[2]}));
    }
    case GgufForm::kGate: {
      const StoredTensor& up = partner(match, GgufForm::kUp);
      return put(match.hf_name, swap_last(Expr::interleave(1, {whole, Expr::input(up.name, up.shape)})));
    }
  }
}

}  // namespace

layout::Expr undo_rotary_permutation(const layout::Expr& rows, int64_t heads) {
  const Shape& whole = rows.shape();
  VIADUCT_USER_CHECK(heads > 0 && whole.rank() >= 1 && whole.rank() <= 2 && whole[0] % (2 * heads) == 0,
                     "rows of shape {} cannot belong to {} heads of an even size", whole, heads);
  const int64_t half = whole[0] / heads / 2;
  if (whole.rank() == 1) return rows.reshape({heads, half, 2}).transpose({0, 2, 1}).reshape(whole);
  return rows.reshape({heads, half, 2, whole[1]}).transpose({0, 2, 1, 3}).reshape(whole);
}

void add_gguf_tensors(const GgufFile& file, GgufModel& model) {
  TensorNames names(file, gguf_architecture(file), model);
  for (const StoredTensor& stored : file.tensors())
    if (stored.name != kGgufRopeFactors) names.add(stored);
}

}  // namespace viaduct::models
