// Every reference model loaded into and exported from live modules, under many layouts: each rank is a thread.
#include "viaduct/nn/live.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "tests/unit/bridge/golden_model.h"
#include "tests/unit/nn/plain_chunks.h"
#include "tests/unit/parallel/thread_ranks.h"
#include "viaduct/bridge/manifest.h"
#include "viaduct/bridge/rank_view.h"
#include "viaduct/bridge/verify.h"
#include "viaduct/bridge/weight_stream.h"

namespace viaduct::nn {
namespace {

using bridge::Checkpoint;
using parallel::run_ranks;
using topology::Parallelism;

struct NamedLayout {
  const char* name;
  Parallelism sizes;
};

// tp, pp, vpp, cp, ep, etp, dp
const NamedLayout kLayouts[] = {
    {"one", {}},
    {"tp2", {.tp = 2}},
    {"tp4", {.tp = 4}},
    {"pp2", {.pp = 2}},
    {"pp2_vpp2", {.pp = 2, .vpp = 2}},
    {"dp2", {.dp = 2}},
    {"ep2", {.ep = 2, .dp = 2}},
    {"etp2", {.etp = 2, .dp = 2}},
    {"tp2_pp2_ep2", {.tp = 2, .pp = 2, .ep = 2}},
    {"tp2_cp2_ep2_etp2", {.tp = 2, .cp = 2, .ep = 2, .etp = 2}},
};

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(Path(VIADUCT_GOLDEN_DIR) / "families"))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool fits(const Checkpoint& source, const Parallelism& sizes) {
  try {
    bridge::rank_parameters(source.arch(), sizes, 0);
    return true;
  } catch (const UserError&) {
    return false;
  }
}

std::vector<std::byte> bytes_of(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.detach().contiguous();
  const auto bytes = torchx::bytes_of(whole);
  return {bytes.begin(), bytes.end()};
}

// The tensors of a rank's chunks, by chunk and name.
std::map<std::string, at::Tensor> tensors_of(const ModelChunks& chunks) {
  std::map<std::string, at::Tensor> tensors;
  for (size_t c = 0; c < chunks.size(); ++c) {
    for (const auto& item : chunks[c]->named_parameters())
      tensors[fmt::format("{}:{}", c, item.key())] = item.value();
    for (const auto& item : chunks[c]->named_buffers()) tensors[fmt::format("{}:{}", c, item.key())] = item.value();
  }
  return tensors;
}

struct Exported {
  std::string name;
  DType dtype{};
  Shape shape;
  std::vector<std::byte> bytes;
  friend bool operator==(const Exported&, const Exported&) = default;
};

ReceiveTensor collect(std::vector<Exported>& to) {
  return [&to](const std::string& name, const at::Tensor& tensor) {
    to.push_back({name, torchx::dtype_of(tensor.scalar_type()), torchx::shape_of(tensor), bytes_of(tensor)});
  };
}

// What the torch-free export of a checkpoint has: values as numbers, by name.
std::map<std::string, Exported> numbers_of(const Checkpoint& source) {
  std::map<std::string, Exported> result;
  bridge::WeightStream stream(bridge::hf_view(source));
  while (const auto tensor = stream.next()) {
    const auto bytes = tensor->bytes.bytes();
    result[tensor->name] = {tensor->name, tensor->dtype, tensor->shape, {bytes.begin(), bytes.end()}};
  }
  return result;
}

Path hf_folder(const std::string& family) { return Path(VIADUCT_GOLDEN_DIR) / "families" / family / "hf"; }

// One process for all families: loading libtorch takes longer than a test.
void for_each_family(const std::function<void(const std::string& family)>& test) {
  for (const std::string& family : family_names()) {
    SCOPED_TRACE(family);
    test(family);
    if (testing::Test::HasFatalFailure()) return;
  }
}

// The bytes of every rank are those of its view, which other tests hold against the reference programs; no byte of
// a module keeps its own value.
void loads_what_every_rank_holds(const std::string& family) {
  const auto source = bridge::open_checkpoint(hf_folder(family));
  for (const NamedLayout& layout : kLayouts) {
    if (!fits(*source, layout.sizes)) continue;
    SCOPED_TRACE(layout.name);
    run_ranks(layout.sizes, [&](const parallel::Mesh& mesh) {
      const ModelChunks chunks = plain_chunks(*source, mesh);
      const LoadReport report = load_weights(*source, chunks, mesh);
      const std::map<std::string, at::Tensor> loaded = tensors_of(chunks);
      EXPECT_EQ(report.tensors, loaded.size());
      EXPECT_EQ(report.casts, 0u);
      const auto views =
          bridge::rank_view(*source, {.parallel = mesh.sizes()}, grid_rank(mesh.sizes(), mesh.place()));
      size_t seen = 0;
      for (size_t c = 0; c < views.size(); ++c) {
        bridge::WeightStream stream(views[c].view);
        while (const auto tensor = stream.next()) {
          const at::Tensor& found = loaded.at(fmt::format("{}:{}", c, tensor->name));
          EXPECT_TRUE(std::ranges::equal(torchx::bytes_of(found.detach()), tensor->bytes.bytes())) << tensor->name;
          ++seen;
        }
      }
      EXPECT_EQ(seen, loaded.size());
    });
  }
}

// The reference programs made these parameters.
void loads_the_references_parameters(const std::string& family) {
  if (!std::filesystem::exists(hf_folder(family).parent_path() / "megatron")) return;
  // Where the reference itself has a slip (tests/golden/golden_test.cpp says which), there is nothing to equal.
  if (family == "qwen25_vl_nodtype" || family == "qwen3_next_public" || family == "qwen3_vl_bias") return;
  const bridge::GoldenModel golden = bridge::read_golden_model(family);
  for (const Path& path : {golden.hf_folder, golden.iteration}) {
    const auto source =
        bridge::open_checkpoint(path, path == golden.iteration ? bridge::OpenOptions{.reference = golden.hf_folder}
                                                               : bridge::OpenOptions{});
    const parallel::Mesh mesh;
    const ModelChunks chunks = plain_chunks(*source, mesh);
    load_weights(*source, chunks, mesh);
    const std::map<std::string, at::Tensor> loaded = tensors_of(chunks);
    EXPECT_EQ(loaded.size(), golden.parameters.size());
    for (const models::Parameter& parameter : source->graph().parameters) {
      if (!parameter.stored_parts.empty()) continue;  // the reference checkpoint has it in several tensors
      const std::string& name = parameter.name;
      const bridge::GoldenModel::Tensor& expected = golden.parameters.at(name);
      const auto found = loaded.find("0:" + name);
      ASSERT_NE(found, loaded.end()) << name;
      // A reference without a dtype in its config.json was stored in float32.
      const at::Tensor values = found->second.detach().to(torchx::scalar_type(expected.dtype));
      EXPECT_TRUE(bytes_of(values) == expected.bytes) << name << " of " << path;
    }
  }
}

void exports_its_source(const std::string& family) {
  const auto source = bridge::open_checkpoint(hf_folder(family));
  const std::map<std::string, Exported> expected = numbers_of(*source);
  for (const NamedLayout& layout : kLayouts) {
    if (!fits(*source, layout.sizes)) continue;
    SCOPED_TRACE(layout.name);
    std::vector<std::vector<Exported>> received(static_cast<size_t>(layout.sizes.world_size()));
    run_ranks(layout.sizes, [&](const parallel::Mesh& mesh) {
      const ModelChunks chunks = plain_chunks(*source, mesh);
      load_weights(*source, chunks, mesh);
      export_hf_weights(chunks, mesh, *source, collect(received[static_cast<size_t>(mesh.rank())]),
                        {.check_replicas = true, .bucket = 64u << 10});
    });
    size_t weights = 0;
    for (const Exported& tensor : received[0]) {
      const auto found = expected.find(tensor.name);
      if (found == expected.end()) continue;  // what is no weight; the next test has its bytes
      ++weights;
      EXPECT_TRUE(tensor == found->second) << tensor.name;
    }
    EXPECT_EQ(weights, expected.size());
    for (const auto& other : received) EXPECT_TRUE(other == received[0]);
  }
}

// Signs are turned after loading: what comes out is the live model's. Only the first rank receives.
void exports_what_is_trained(const std::string& family) {
  const auto source = bridge::open_checkpoint(hf_folder(family));
  std::map<std::string, Exported> expected = numbers_of(*source);
  const Parallelism sizes = fits(*source, {.tp = 2, .pp = 2, .ep = 2}) ? Parallelism{.tp = 2, .pp = 2, .ep = 2}
                                                                       : Parallelism{.tp = 2, .pp = 2};
  if (!fits(*source, sizes)) return;
  std::vector<Exported> received;
  run_ranks(sizes, [&](const parallel::Mesh& mesh) {
    const ModelChunks chunks = plain_chunks(*source, mesh);
    load_weights(*source, chunks, mesh);
    for (const auto& [name, tensor] : tensors_of(chunks)) tensor.detach().neg_();
    std::vector<Exported> none;
    export_hf_weights(chunks, mesh, *source, collect(mesh.rank() == 0 ? received : none),
                      {.receivers = Receivers::kFirst, .bucket = 1u << 20});
    EXPECT_TRUE(none.empty());
  });
  size_t compared = 0;
  const bridge::WeightGraph& graph = source->graph();
  for (const Exported& tensor : received) {
    const auto found = expected.find(tensor.name);
    if (found == expected.end()) continue;
    const auto id = static_cast<size_t>(graph.hf_ids.at(tensor.name));
    const models::Parameter& parameter = graph.parameters[static_cast<size_t>(graph.parameters_of(id)[0])];
    // These are rounded when they are loaded.
    if (graph.add_of_hf(id) != 0 || parameter.stored_type == models::StoredType::kModel) continue;
    const at::Tensor turned =
        at::from_blob(found->second.bytes.data(), torchx::sizes_of(tensor.shape), torchx::scalar_type(tensor.dtype))
            .neg();
    EXPECT_TRUE(tensor.bytes == bytes_of(turned)) << tensor.name;
    ++compared;
  }
  EXPECT_GT(compared, expected.size() / 2);
}

std::map<std::string, std::string> files_below(const Path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    files[entry.path().lexically_relative(folder).string()] = {std::istreambuf_iterator<char>(in), {}};
  }
  return files;
}

// Byte for byte the folder that an export of the imported checkpoint is: of another program path, without torch.
void saves_what_the_torch_free_export_writes(const std::string& family) {
  const auto source = bridge::open_checkpoint(hf_folder(family));
  const Path scratch = Path(testing::TempDir()) / fmt::format("live_save_{}", family);
  std::filesystem::remove_all(scratch);
  std::filesystem::create_directories(scratch);
  bridge::run(bridge::plan_import(*source, scratch / "megatron", {}), {});
  const auto imported = bridge::open_checkpoint(scratch / "megatron");
  bridge::run(bridge::plan_export(*imported, scratch / "expected", {}), {});
  std::map<std::string, std::string> expected = files_below(scratch / "expected");
  const Parallelism sizes =
      fits(*source, {.tp = 2, .ep = 2}) ? Parallelism{.tp = 2, .ep = 2} : Parallelism{.tp = 2};
  for (const Checkpoint* from : {source.get(), imported.get()}) {
    if (!fits(*source, sizes)) continue;
    const Path folder = scratch / "live";
    run_ranks(sizes, [&](const parallel::Mesh& mesh) {
      const ModelChunks chunks = plain_chunks(*from, mesh);
      load_weights(*from, chunks, mesh);
      save_hf_pretrained(chunks, mesh, *from, folder, {}, {.overwrite = true, .bucket = 64u << 10});
    });
    std::map<std::string, std::string> found = files_below(folder);
    EXPECT_TRUE(found.erase(".viaduct/manifest.jsonl"));
    expected.erase(".viaduct/manifest.jsonl");
    for (const auto& [name, content] : expected)
      EXPECT_TRUE(found.contains(name) && found.at(name) == content) << name << " of " << from->path();
    EXPECT_EQ(found.size(), expected.size());
    EXPECT_TRUE(bridge::check_manifest(folder, {}).holds());
  }
  std::filesystem::remove_all(scratch);
}

TEST(LiveModel, LoadsWhatEveryRankHolds) { for_each_family(loads_what_every_rank_holds); }
TEST(LiveModel, LoadsTheReferencesParameters) { for_each_family(loads_the_references_parameters); }
TEST(LiveModel, ExportsItsSource) { for_each_family(exports_its_source); }
TEST(LiveModel, ExportsWhatIsTrained) { for_each_family(exports_what_is_trained); }
TEST(LiveModel, SavesWhatTheTorchFreeExportWrites) { for_each_family(saves_what_the_torch_free_export_writes); }

}  // namespace
}  // namespace viaduct::nn
