// Training checkpoints in Megatron-LM's `torch` format: each tensor is the one that megatron-core wrote at the same
// moment in torch_dist; damaged ones are refused, by file, group and place.
#include "viaduct/training/mp_rank_form.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <variant>

#include "tests/unit/training/torch_training.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::training {
namespace {

using formats::PickleValue;
using ::testing::HasSubstr;
using Keys = std::vector<std::variant<std::string, int64_t>>;
using Change = std::function<PickleValue(const PickleValue&)>;

bool is_key(const PickleValue& value, const Keys::value_type& key) {
  if (const auto* text = std::get_if<std::string>(&key))
    return value.kind() == PickleValue::Kind::kString && value.text() == *text;
  return value.kind() == PickleValue::Kind::kInt && value.as_int() == std::get<int64_t>(key);
}

// `value` with something else at keys[at...].
PickleValue changed(const PickleValue& value, const Keys& keys, const Change& change, size_t at = 0) {
  if (at == keys.size()) return change(value);
  if (value.is_dict()) {
    std::vector<PickleValue::Member> members = value.members();
    for (auto& [key, member] : members)
      if (is_key(key, keys[at])) member = changed(member, keys, change, at + 1);
    return PickleValue::dict(std::move(members));
  }
  std::vector<PickleValue> items = value.items();
  PickleValue& item = items.at(static_cast<size_t>(std::get<int64_t>(keys[at])));
  item = changed(item, keys, change, at + 1);
  return PickleValue::list(std::move(items));
}

PickleValue without(const PickleValue& dict, const Keys::value_type& key) {
  std::vector<PickleValue::Member> members = dict.members();
  std::erase_if(members, [&](const PickleValue::Member& member) { return is_key(member.first, key); });
  return PickleValue::dict(std::move(members));
}

PickleValue shorter(const PickleValue& list) {
  std::vector<PickleValue> items = list.items();
  items.pop_back();
  return PickleValue::list(std::move(items));
}

PickleValue flattened(const PickleValue& value) {
  formats::PickleTensor tensor = value.as_tensor();
  tensor.shape = Shape{num_elements(tensor.shape)};
  return tensor;
}

MpRankState state_of(const Path& folder) {
  const auto checkpoint = bridge::open_checkpoint(folder);
  return read_mp_ranks(folder, checkpoint->run_state().args, checkpoint->arch(),
                       models::layer_keys_for(checkpoint->arch()), {});
}

// The same under the key of a layer spec with Transformer Engine, or without.
const formats::StoredTensor* find(const formats::TensorReader& reader, const std::string& name) {
  constexpr std::string_view kState = "optimizer.state.";
  const size_t key = name.starts_with(kState) ? name.find('.', kState.size()) + 1 : 0;
  const std::string prefix = name.substr(0, key);
  std::vector<std::string> names = models::alternative_keys(name.substr(key));
  names.insert(names.begin(), name.substr(key));
  for (const std::string& other : names)
    if (const formats::StoredTensor* found = reader.find(prefix + other)) return found;
  return nullptr;
}

class MpRankForm : public ::testing::Test {
 protected:
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_.parent_path());
  }

  // A copy of a run's checkpoint in which a file of the last rank is changed.
  void damage(const std::string& run, const std::string& file, const Keys& keys, const Change& change) {
    const Path source = test::torch_training(run, "megatron");
    folder_ = Path(::testing::TempDir()) / fmt::format("viaduct-mp-rank-form-{}", ::getpid()) / source.filename();
    std::filesystem::remove_all(folder_.parent_path());
    std::filesystem::create_directories(folder_.parent_path());
    std::filesystem::copy(source, folder_, std::filesystem::copy_options::recursive);
    if (file.empty()) return;
    const std::string bytes = formats::write_torch_file(
        changed(formats::read_torch_object(folder_ / file), keys, change), "model_optim_rng");
    std::ofstream(folder_ / file, std::ios::binary) << bytes;
  }

  std::string error() {
    try {
      state_of(folder_);
    } catch (const UserError& error) {
      return error.what();
    }
    return "none";
  }

  Path folder_;
};

const std::string kLast = "mp_rank_01/model_optim_rng.pt";
const Keys kOptimizer{"optimizer"}, kInner{"optimizer", "optimizer"},
    kGroups{"optimizer", "optimizer", "param_groups"};

Keys operator+(Keys keys, const Keys& more) {
  keys.insert(keys.end(), more.begin(), more.end());
  return keys;
}

TEST_F(MpRankForm, EveryTensorIsThatOfTorchDist) {
  const Path root = test::golden_dir() / "torch_training";
  int runs = 0;
  for (const auto& run : std::filesystem::directory_iterator(root)) {
    const std::string where = run.path().filename().string();
    const Path folder = test::torch_training(where, "megatron");
    MpRankState state = state_of(folder);
    const test::ListedTensors found(std::move(state.files), std::move(state.tensors));
    const test::ListedTensors expected =
        test::torch_training_expected(where, bridge::open_checkpoint(folder)->arch());
    size_t states = 0;
    for (const formats::StoredTensor& tensor : expected.tensors()) {
      const formats::StoredTensor* other = find(found, tensor.name);
      ASSERT_TRUE(other) << where << ": " << tensor.name;
      ASSERT_EQ(other->dtype, tensor.dtype) << where << ": " << tensor.name;
      // Rows that pad the vocabulary of the layout that wrote it are left out.
      std::vector<std::byte> values = formats::read_tensor(expected, tensor);
      const bool padded = where == "bf16_tp2" && tensor.shape[0] == 48;
      if (padded) values.resize(values.size() / 48 * 47);
      ASSERT_EQ(other->shape, padded ? Shape({47, 16}) : tensor.shape) << where << ": " << tensor.name;
      EXPECT_TRUE(formats::read_tensor(found, *other) == values) << where << ": " << tensor.name;
      states += tensor.name.starts_with("optimizer.state.") ? 1 : 0;
    }
    EXPECT_GE(states, 18u) << where;
    ++runs;
  }
  EXPECT_EQ(runs, 10);
}

TEST_F(MpRankForm, DamagedGroups) {
  damage("bf16_tp2", "", {}, {});
  EXPECT_EQ(error(), "none");
  const std::string group = kLast + ": optimizer.optimizer.param_groups.1";
  const auto expect = [&](const Keys& keys, const Change& change, const std::string& text) {
    damage("bf16_tp2", kLast, keys, change);
    EXPECT_THAT(error(), HasSubstr(text));
  };
  expect(
      {}, [](const PickleValue& all) { return without(all, "optimizer"); }, kLast + ": no optimizer state");
  expect(
      kOptimizer, [](const PickleValue&) { return PickleValue("Adam"); }, "param_groups is missing");
  expect(
      kOptimizer,
      [](const PickleValue&) {
        return PickleValue::list({1, 2});
      },
      "param_groups is missing");
  expect(
      kInner, [](const PickleValue& all) { return without(all, "param_groups"); }, "param_groups is missing");
  expect(kGroups + Keys{1, "params"}, shorter,
         group + " has 6 parameters without weight decay, the rank's model has 7");
  expect(
      kGroups + Keys{1, "wd_mult"}, [](const PickleValue&) { return PickleValue("0"); }, group + " has no wd_mult");
  expect(
      kGroups + Keys{1, "wd_mult"}, [](const PickleValue&) { return PickleValue(1.0); },
      group + " is a second group of parameters with weight decay");
  expect(
      kGroups + Keys{1, "params", 2}, [](const PickleValue&) { return PickleValue("x"); },
      group + ", place 2 (model.decoder.layers.0.pre_mlp_layernorm.weight): its number is");
  expect(kGroups, shorter, kLast + ": its optimizer has 10 parameters, its model 17");
}

TEST_F(MpRankForm, DamagedStates) {
  const auto expect = [&](const Keys& keys, const Change& change, const std::string& text) {
    damage("bf16_tp2", kLast, keys, change);
    EXPECT_THAT(error(), HasSubstr(text));
  };
  const std::string group = kLast + ": optimizer.optimizer.param_groups.0";
  const Keys states = kInner + Keys{"state"};
  expect(
      states, [](const PickleValue& all) { return without(all, 2); },
      group +
          ", place 2 (model.decoder.layers.0.self_attention.linear_qkv.weight): nothing under "
          "optimizer.optimizer.state.2");
  expect(
      states + Keys{2}, [](const PickleValue& all) { return without(all, "exp_avg_sq"); },
      group + ", place 2 (model.decoder.layers.0.self_attention.linear_qkv.weight): no exp_avg_sq");
  expect(states + Keys{1, "exp_avg"}, flattened,
         group +
             ", place 1 (model.decoder.layers.0.self_attention.linear_proj.weight): "
             "optimizer.optimizer.state.1.exp_avg has the shape [128], the parameter [16, 8]");
  expect(kOptimizer + Keys{"fp32_from_fp16_params", 0}, shorter, "optimizer.fp32_from_fp16_params.0.9 is missing");
  expect(
      states, [](const PickleValue&) { return PickleValue::dict(); }, "is missing for tensor-parallel rank 1");
}

TEST_F(MpRankForm, DamagedBuffers) {
  const std::string file = "mp_rank_00/distrib_optim.pt";
  const auto first = [](const Change& change) {
    return [change](const PickleValue& buffer) {
      std::vector<PickleValue::Member> members = buffer.members();  // the one pair of types
      members.at(0).second = changed(members.at(0).second, {"exp_avg"}, change);
      return PickleValue::dict(std::move(members));
    };
  };
  const auto expect = [&](const Keys& keys, const Change& change, const std::string& text) {
    damage("bf16_tied_sharded", file, keys, change);
    EXPECT_THAT(error(), HasSubstr(text));
  };
  expect(
      {}, [](const PickleValue& all) { return all; }, "none");
  expect({0}, first([](const PickleValue& value) {
           formats::PickleTensor tensor = value.as_tensor();
           tensor.shape[0] -= 64;
           tensor.bytes.resize(tensor.bytes.size() - 256);
           return PickleValue(tensor);
         }),
         file + ": 0.?.exp_avg has ");
  expect({0}, first([](const PickleValue& value) {
           formats::PickleTensor tensor = value.as_tensor();
           tensor.shape = Shape{tensor.shape[0] / 2, 2};
           return PickleValue(tensor);
         }),
         "not a row of numbers");
  expect(
      {0}, [](const PickleValue&) { return PickleValue::dict(); }, file + " holds no buffers");
  expect(
      {},
      [](const PickleValue& all) {
        return PickleValue::dict({{1, all.members().at(1).second}});
      },
      file + ": a buffer 1, and the rank's model makes 1");
  expect(
      {},
      [](const PickleValue& all) {
        return PickleValue::dict({{"x", all.members().at(1).second}});
      },
      "is not what megatron-core writes there");
  damage("bf16_tied_sharded", "", {}, {});
  std::filesystem::remove(folder_ / file);
  EXPECT_THAT(error(), HasSubstr(file + " is missing"));
}

}  // namespace
}  // namespace viaduct::training
