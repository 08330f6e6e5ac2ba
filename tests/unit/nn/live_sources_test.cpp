// Live models of other sources than Hugging Face folders of plain numbers, and in other memory than tensors of
// their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "tests/unit/nn/plain_chunks.h"
#include "tests/unit/parallel/thread_ranks.h"
#include "viaduct/bridge/export_tensors.h"
#include "viaduct/bridge/rank_view.h"
#include "viaduct/bridge/weight_stream.h"
#include "viaduct/core/convert.h"
#include "viaduct/nn/live.h"

namespace viaduct::nn {
namespace {

using parallel::run_ranks;

Path golden(const std::string& path) { return Path(VIADUCT_GOLDEN_DIR) / path; }

// The bytes that the rank's tensors are to have, as `dtype`, by name; of layouts with one chunk a rank.
std::map<std::string, bridge::LoadedTensor> expected_of(const bridge::Checkpoint& source,
                                                        const parallel::Mesh& mesh,
                                                        std::optional<DType> dtype = std::nullopt) {
  std::map<std::string, bridge::LoadedTensor> result;
  const auto views =
      bridge::rank_view(source, {.parallel = mesh.sizes(), .dtype = dtype}, grid_rank(mesh.sizes(), mesh.place()));
  bridge::WeightStream stream(views.at(0).view);
  while (auto tensor = stream.next()) result[tensor->name] = std::move(*tensor);
  return result;
}

bool equal(const at::Tensor& tensor, const bridge::LoadedTensor& expected) {
  const at::Tensor dense = tensor.detach().contiguous();
  return std::ranges::equal(torchx::bytes_of(dense), expected.bytes.bytes());
}

// Quantised weights become their numbers, whole and cut; what is exported are those numbers.
TEST(LiveSources, QuantisedWeights) {
  for (const char* name : {"quantized/deepseek_v3_fp8/hf", "quantized/gpt_oss_mxfp4/hf"}) {
    SCOPED_TRACE(name);
    const auto source = bridge::open_checkpoint(golden(name));
    run_ranks({.tp = 2, .ep = 2}, [&](const parallel::Mesh& mesh) {
      const ModelChunks chunks = plain_chunks(*source, mesh);
      load_weights(*source, chunks, mesh);
      const auto expected = expected_of(*source, mesh);
      for (const auto& item : chunks[0]->named_parameters())
        EXPECT_TRUE(equal(item.value(), expected.at(item.key()))) << item.key();
      std::map<std::string, at::Tensor> exported;
      export_hf_weights(chunks, mesh, *source,
                        [&](const std::string& name, const at::Tensor& t) { exported[name] = t; });
      size_t compared = 0;
      const bridge::ExportTensors wanted = bridge::export_tensors(*source, {});
      bridge::WeightStream numbers(bridge::hf_view(*source, wanted.graph.get()));
      while (const auto tensor = numbers.next()) {
        const auto found = exported.find(tensor->name);
        if (found == exported.end()) continue;  // the form of its numbers has another name
        EXPECT_TRUE(equal(found->second, *tensor)) << tensor->name;
        ++compared;
      }
      EXPECT_GT(compared, 10u);
    });
  }
}

// Megatron-LM's rank folders and other Megatron checkpoints, into another layout than theirs.
TEST(LiveSources, MegatronFolders) {
  for (const char* name : {"forms/legacy_llama_tp2/megatron", "forms/legacy_llama_tied_tp2_pp2/megatron",
                           "forms/fsdp_llama/megatron"}) {
    SCOPED_TRACE(name);
    const auto source = bridge::open_checkpoint(golden(name));
    run_ranks({.pp = 2}, [&](const parallel::Mesh& mesh) {
      const ModelChunks chunks = plain_chunks(*source, mesh);
      load_weights(*source, chunks, mesh);
      const auto expected = expected_of(*source, mesh);
      for (const auto& item : chunks[0]->named_parameters())
        EXPECT_TRUE(equal(item.value(), expected.at(item.key()))) << item.key();
    });
  }
}

// Parameters that are views: parts of one large storage, turned, and with gaps; in another type too.
TEST(LiveSources, ParametersThatAreViews) {
  const auto source = bridge::open_checkpoint(golden("families/qwen3_moe/hf"));
  const parallel::Mesh mesh;
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16}) {
    const auto expected = expected_of(*source, mesh, dtype);
    auto module = std::make_shared<ParameterChunk>();
    int64_t total = 0;
    for (const auto& [name, tensor] : expected) total += num_elements(tensor.shape);
    const at::Tensor storage = at::full({total}, 7.0, torchx::scalar_type(dtype));
    int64_t next = 0, turn = 0;
    for (const auto& [name, tensor] : expected) {
      const int64_t count = num_elements(tensor.shape);
      at::Tensor part = storage.narrow(0, next, count);
      next += count;
      const std::vector<int64_t> sizes(tensor.shape.begin(), tensor.shape.end());
      if (sizes.size() == 2 && turn % 3 == 1) {
        part = part.view({sizes[1], sizes[0]}).t();
      } else if (turn % 3 == 2) {
        std::vector<int64_t> wide = sizes;
        wide.back() *= 2;
        part = at::full(wide, 7.0, torchx::scalar_type(dtype)).slice(-1, 1, wide.back(), 2);
      } else {
        part = part.view(sizes);
      }
      module->put(name, part);
      ++turn;
    }
    const LoadReport report = load_weights(*source, {module}, mesh);
    EXPECT_EQ(report.casts, dtype == DType::kBF16 ? 0 : report.tensors);
    for (const auto& item : module->named_parameters())
      EXPECT_TRUE(equal(item.value(), expected.at(item.key()))) << item.key();
  }
}

// Types of what is exported: the model's when it was cast, the source's or another when that is asked for.
TEST(LiveSources, TypesOfExports) {
  const auto source = bridge::open_checkpoint(golden("families/llama/hf"));
  const parallel::Mesh mesh;
  const ModelChunks chunks = plain_chunks(*source, mesh, DType::kF32);
  load_weights(*source, chunks, mesh);
  const auto type_with = [&](const ExportOptions& options) {
    std::optional<at::ScalarType> type;
    export_hf_weights(
        chunks, mesh, *source,
        [&](const std::string&, const at::Tensor& tensor) {
          EXPECT_TRUE(!type || *type == tensor.scalar_type());
          type = tensor.scalar_type();
        },
        options);
    return type.value();
  };
  EXPECT_EQ(type_with({}), at::kFloat);
  EXPECT_EQ(type_with({.dtype = DType::kF16}), at::kHalf);
  EXPECT_EQ(type_with({.source_dtypes = true}), at::kBFloat16);

  // Without a source: the graph's tensors, in the model's type.
  std::map<std::string, at::Tensor> plain;
  export_hf_weights(chunks, mesh, source->graph(),
                    [&](const std::string& name, const at::Tensor& tensor) { plain[name] = tensor; });
  EXPECT_EQ(plain.size(), source->graph().hf_tensors.size());
  bridge::WeightStream numbers(bridge::hf_view(*source), DType::kF32);
  while (const auto tensor = numbers.next()) EXPECT_TRUE(equal(plain.at(tensor->name), *tensor)) << tensor->name;
}

// The rank's chunk of a model that runs without multi-token prediction.
ModelChunks chunks_without_mtp(const bridge::Checkpoint& source, const parallel::Mesh& mesh) {
  const ModelChunks all = plain_chunks(source, mesh);
  models::ArchSpec without = source.arch();
  without.mtp.reset();
  auto module = std::make_shared<ParameterChunk>();
  const auto parameters = all[0]->named_parameters(), buffers = all[0]->named_buffers();
  const int rank = grid_rank(mesh.sizes(), mesh.place());
  for (const bridge::RankParameter& each : bridge::rank_parameters(without, mesh.sizes(), rank))
    module->put(each.name, (parameters.contains(each.name) ? parameters : buffers)[each.name].detach());
  return {module};
}

// What such a model does not hold comes from the source, all else from the model, in export and in saved folders.
TEST(LiveSources, ModelsThatRunWithoutMultiTokenPrediction) {
  const auto source = bridge::open_checkpoint(golden("families/deepseek_v3/hf"));
  ASSERT_TRUE(source->arch().mtp);
  const bridge::WeightGraph& graph = source->graph();
  std::map<std::string, bridge::LoadedTensor> original;
  bridge::WeightStream numbers(bridge::hf_view(*source));
  while (auto tensor = numbers.next()) original[tensor->name] = std::move(*tensor);
  const Path folder = Path(testing::TempDir()) / "live_without_mtp";
  std::filesystem::remove_all(folder);
  std::map<std::string, at::Tensor> exported;
  run_ranks({.tp = 2, .pp = 2}, [&](const parallel::Mesh& mesh) {
    const ModelChunks chunks = chunks_without_mtp(*source, mesh);
    load_weights(*source, chunks, mesh);
    for (const at::Tensor& tensor : chunks[0]->parameters()) tensor.detach().neg_();
    for (const at::Tensor& tensor : chunks[0]->buffers()) tensor.detach().neg_();
    export_hf_weights(chunks, mesh, *source,
                      [&](const std::string& name, const at::Tensor& tensor) {
                        if (mesh.rank() == 0) exported[name] = tensor;
                      },
                      {.check_replicas = true});
    save_hf_pretrained(chunks, mesh, *source, folder);
    EXPECT_THROW(export_hf_weights(chunks, mesh, graph, [](const std::string&, const at::Tensor&) {}), UserError);
  });
  const auto saved = bridge::open_checkpoint(folder);
  bridge::WeightStream again(bridge::hf_view(*saved));
  size_t kept = 0, trained = 0;
  while (const auto tensor = again.next()) {
    const auto id = static_cast<size_t>(graph.hf_ids.at(tensor->name));
    const bridge::LoadedTensor& before = original.at(tensor->name);
    at::Tensor expected =
        at::from_blob(before.bytes.data(), torchx::sizes_of(before.shape), torchx::scalar_type(before.dtype));
    const std::string& parameter = graph.parameters[static_cast<size_t>(graph.parameters_of(id)[0])].name;
    const bool of_mtp = parameter.find("mtp.") != std::string::npos;
    ++(of_mtp ? kept : trained);
    if (!of_mtp) expected = expected.neg();
    EXPECT_TRUE(equal(expected, *tensor)) << tensor->name << " saved";
    EXPECT_TRUE(equal(exported.at(tensor->name), *tensor)) << tensor->name << " exported";
  }
  EXPECT_GT(kept, 5u);
  EXPECT_GT(trained, 20u);
}

// A layout that numbers its ranks with data parallel last is found out from the ranks' places.
TEST(LiveSources, RanksInAnotherOrder) {
  const auto source = bridge::open_checkpoint(golden("families/qwen3_moe/hf"));
  run_ranks(
      {.tp = 2, .pp = 2, .ep = 2, .dp = 2},
      [&](const parallel::Mesh& mesh) {
        const ModelChunks chunks = plain_chunks(*source, mesh);
        load_weights(*source, chunks, mesh);
        std::map<std::string, at::Tensor> exported;
        export_hf_weights(chunks, mesh, *source,
                          [&](const std::string& name, const at::Tensor& tensor) { exported[name] = tensor; },
                          {.check_replicas = true});
        bridge::WeightStream numbers(bridge::hf_view(*source));
        while (const auto tensor = numbers.next())
          EXPECT_TRUE(equal(exported.at(tensor->name), *tensor)) << tensor->name;
      },
      topology::RankOrder::kDataLast);
}

}  // namespace
}  // namespace viaduct::nn
