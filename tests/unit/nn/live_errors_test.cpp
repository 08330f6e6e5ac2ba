// What cannot be loaded or exported: told before a weight is read, with all that is wrong, on every rank.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/unit/nn/plain_chunks.h"
#include "tests/unit/parallel/thread_ranks.h"
#include "viaduct/nn/agree.h"
#include "viaduct/nn/live.h"

namespace viaduct::nn {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using topology::Parallelism;

Path golden(const std::string& family) { return Path(VIADUCT_GOLDEN_DIR) / "families" / family / "hf"; }

// The message of the UserError that `work` throws; empty when it throws none.
template <class Work>
std::string refusal(Work&& work) {
  try {
    work();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

std::string text_of(const std::exception_ptr& error) {
  return refusal([&] {
    if (error) std::rethrow_exception(error);
  });
}

bool untouched(const ModelChunks& chunks) {
  for (const auto& chunk : chunks)
    for (const at::Tensor& tensor : chunk->parameters())
      for (const std::byte byte : torchx::bytes_of(tensor.detach()))
        if (byte != kUnset) return false;
  return true;
}

at::Tensor parameter(const torch::nn::Module& module, const std::string& name) {
  return module.named_parameters()[name].detach();
}

TEST(LiveErrors, EveryDifferenceIsListedAndNothingIsRead) {
  const auto source = bridge::open_checkpoint(golden("llama"));
  const parallel::Mesh mesh;
  auto module = std::make_shared<ParameterChunk>();
  for (const bridge::RankParameter& each : bridge::rank_parameters(source->arch(), {}, 0)) {
    if (each.name == "decoder.final_layernorm.weight") continue;
    Shape shape = each.tensor.local_shape;
    if (each.name == "decoder.layers.0.mlp.linear_fc2.weight") shape[0] += 1;
    const auto type = each.name == "embedding.word_embeddings.weight" ? at::kLong : at::kBFloat16;
    at::Tensor values = at::empty(torchx::sizes_of(shape), type);
    std::ranges::fill(torchx::bytes_of(values), kUnset);
    module->put(each.name, values);
  }
  module->put("decoder.layers.0.mlp.linear_fc3.weight", at::full({2}, 1.0, at::kFloat));
  const std::string message = refusal([&] { load_weights(*source, {module}, mesh); });
  EXPECT_THAT(message, AllOf(HasSubstr("4 problems"), HasSubstr("decoder.final_layernorm.weight"),
                             HasSubstr("decoder.layers.0.mlp.linear_fc2.weight has the shape"),
                             HasSubstr("embedding.word_embeddings.weight has the type Long"),
                             HasSubstr("decoder.layers.0.mlp.linear_fc3.weight is in the module")));
  EXPECT_THAT(message, HasSubstr(source->path().string()));
  EXPECT_EQ(parameter(*module, "decoder.layers.0.mlp.linear_fc1.weight").data_ptr<at::BFloat16>()[0].x, 0xABAB);
  EXPECT_THAT(refusal([&] { load_weights(*source, {}, mesh); }), HasSubstr("has 0 model chunks"));
}

TEST(LiveErrors, WhatKeepsItsValuesIsNamed) {
  const auto source = bridge::open_checkpoint(golden("llama"));
  const parallel::Mesh mesh;
  const ModelChunks chunks = plain_chunks(*source, mesh);
  dynamic_cast<ParameterChunk&>(*chunks[0]).put("decoder.adapter.weight", at::full({2}, 3.0, at::kFloat));
  load_weights(*source, chunks, mesh,
               {.keeps = [](std::string_view name) { return name.ends_with("adapter.weight"); }});
  EXPECT_EQ(parameter(*chunks[0], "decoder.adapter.weight").sum().item<float>(), 6);
}

TEST(LiveErrors, AnotherModelsCheckpointIsRefused) {
  const auto source = bridge::open_checkpoint(golden("llama")), other = bridge::open_checkpoint(golden("qwen3"));
  const parallel::Mesh mesh;
  const ModelChunks chunks = plain_chunks(*source, mesh);
  EXPECT_THAT(refusal([&] { load_weights(*other, chunks, mesh); }), HasSubstr("problems"));
  EXPECT_TRUE(untouched(chunks));
}

TEST(LiveErrors, ATruncatedFileIsFoundBeforeItIsRead) {
  const Path folder = Path(testing::TempDir()) / "live_truncated";
  std::filesystem::remove_all(folder);
  std::filesystem::copy(golden("llama"), folder);
  const auto source = bridge::open_checkpoint(folder);
  const Path file = source->stored().files.back();
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1000);
  const parallel::Mesh mesh;
  const ModelChunks chunks = plain_chunks(*source, mesh);
  EXPECT_THAT(refusal([&] { load_weights(*source, chunks, mesh); }), HasSubstr(file.filename().string()));
  EXPECT_TRUE(untouched(chunks));
}

// One rank's model does not fit: all end, each knowing why, and none has read anything.
TEST(LiveErrors, OneRanksErrorEndsAll) {
  const auto source = bridge::open_checkpoint(golden("llama"));
  std::vector<std::exception_ptr> errors;
  parallel::run_ranks(
      {.tp = 2, .pp = 2},
      [&](const parallel::Mesh& mesh) {
        ModelChunks chunks = plain_chunks(*source, mesh);
        if (mesh.rank() == 2) chunks.clear();
        try {
          load_weights(*source, chunks, mesh);
        } catch (...) {
          EXPECT_TRUE(untouched(chunks));
          throw;
        }
      },
      topology::RankOrder::kPipelineLast, &errors);
  ASSERT_EQ(errors.size(), 4u);
  for (size_t rank = 0; rank < 4; ++rank) {
    EXPECT_THAT(text_of(errors[rank]), HasSubstr("rank 2 has 0 model chunks"));
    if (rank != 2) {
      EXPECT_THROW(std::rethrow_exception(errors[rank]), RankFailed);
    }
  }
  EXPECT_THAT(text_of(errors[2]), Not(testing::StartsWith("rank 2: ")));
}

// The same for one that fails in its own callback, in the middle of an export.
TEST(LiveErrors, AReceiverThatThrowsEndsAll) {
  const auto source = bridge::open_checkpoint(golden("qwen3"));
  std::vector<std::exception_ptr> errors;
  parallel::run_ranks(
      {.tp = 2},
      [&](const parallel::Mesh& mesh) {
        const ModelChunks chunks = plain_chunks(*source, mesh);
        load_weights(*source, chunks, mesh);
        int count = 0;
        export_hf_weights(chunks, mesh, *source,
                          [&](const std::string& name, const at::Tensor&) {
                            if (mesh.rank() == 1 && ++count == 3)
                              throw UserError(fmt::format("no room for {}", name));
                          },
                          {.bucket = 1});
      },
      topology::RankOrder::kPipelineLast, &errors);
  EXPECT_THAT(text_of(errors[0]), HasSubstr("rank 1: no room for"));
  EXPECT_THAT(text_of(errors[1]), testing::StartsWith("no room for"));
}

TEST(LiveErrors, ReplicasThatDifferAreNamed) {
  const auto source = bridge::open_checkpoint(golden("llama"));
  std::vector<std::exception_ptr> errors;
  parallel::run_ranks(
      {.tp = 2, .dp = 2},
      [&](const parallel::Mesh& mesh) {
        const ModelChunks chunks = plain_chunks(*source, mesh);
        load_weights(*source, chunks, mesh);
        check_replicas(chunks, mesh, source->arch());
        at::Tensor norm = parameter(*chunks[0], "decoder.final_layernorm.weight");
        if (mesh.rank() == 3) norm[0] += 1;
        check_replicas(chunks, mesh, source->arch());
      },
      topology::RankOrder::kPipelineLast, &errors);
  for (const std::exception_ptr& error : errors)
    EXPECT_THAT(text_of(error),
                AllOf(HasSubstr("decoder.final_layernorm.weight on ranks 0 and 3"), HasSubstr("1 problem:")));
}

TEST(LiveErrors, LayoutsThatCannotRunAreRefusedWithTheNumbers) {
  const auto source = bridge::open_checkpoint(golden("llama"));
  const int64_t heads = source->arch().layers[0].attention.num_heads;
  EXPECT_THAT(refusal([&] { check_runs(source->arch(), {.tp = 3}); }), HasSubstr("--tp 3"));
  EXPECT_THAT(refusal([&] { check_runs(source->arch(), {.tp = static_cast<int>(2 * heads)}); }),
              HasSubstr(fmt::format("{} attention heads", heads)));
  EXPECT_THAT(refusal([&] { check_runs(source->arch(), {.pp = 64}); }), HasSubstr("--pp 64"));
  EXPECT_THAT(refusal([&] { check_runs(source->arch(), {.ep = 2}); }), HasSubstr("--ep 2"));
  check_runs(source->arch(), {.tp = 2, .pp = 2});
}

}  // namespace
}  // namespace viaduct::nn
