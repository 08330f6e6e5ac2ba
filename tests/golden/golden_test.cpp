// Conversions held against what the reference programs wrote (fixtures/README.md): Megatron Bridge's import of the
// same model, tensor by tensor and bit by bit, its configuration, and the way back.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "viaduct/bridge/auto_bridge.h"
#include "viaduct/bridge/manifest.h"
#include "viaduct/config/run_config.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/tensor_io.h"
#include "viaduct/formats/torch_dist.h"

namespace viaduct::bridge {
namespace {

namespace fs = std::filesystem;

// Set by the build: where the fixtures were unpacked, and a folder for what the tests write.
const Path kFixtures = VIADUCT_GOLDEN_DIR;

Path scratch(const std::string& name) {
  const Path path = Path(testing::TempDir()) / ("viaduct-golden-" + std::to_string(::getpid())) / name;
  fs::remove_all(path);
  fs::create_directories(path.parent_path());
  return path;
}

std::string text_of(const Comparison& comparison) {
  std::string text;
  for (const Difference& difference : comparison.differences)
    text += difference.tensor + ": " + difference.what + "\n";
  return text;
}

void expect_equal(const RawCheckpoint& a, const RawCheckpoint& b) {
  const Comparison comparison = compare(raw_view(a), raw_view(b), {});
  EXPECT_TRUE(comparison.equal()) << text_of(comparison);
  EXPECT_GT(comparison.tensors, 0u);
}

std::set<std::string> extra_states(const Path& root) {
  const auto reader = formats::open_torch_dist(formats::resolve_iteration(root, std::nullopt));
  std::set<std::string> names;
  for (const formats::StoredObject& object : reader->objects())
    if (object.name.find("_extra_state") != std::string::npos) names.insert(object.name);
  return names;
}

// The model section without what names a place on a disk.
config::Yaml model_section(const Path& root) {
  const Path iteration = formats::resolve_iteration(root, std::nullopt);
  config::Yaml model = config::read_run_config(iteration / "run_config.yaml").document.at("model");
  model.erase("hf_model_id");
  return model;
}

std::vector<std::string> families_of_fixtures() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFixtures / "families"))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class GoldenFamily : public testing::TestWithParam<std::string> {
 protected:
  Path hf() const { return kFixtures / "families" / GetParam() / "hf"; }
  Path megatron() const { return kFixtures / "families" / GetParam() / "megatron"; }
};

TEST_P(GoldenFamily, ImportEqualsUpstreams) {
  const Path ours = scratch(GetParam() + "/import");
  AutoBridge::from_hf_pretrained(hf()).import_ckpt(ours);
  expect_equal(open_raw_checkpoint(ours), open_raw_checkpoint(megatron()));
  EXPECT_EQ(extra_states(ours), extra_states(megatron()));
}

TEST_P(GoldenFamily, RunConfigEqualsUpstreams) {
  const Path ours = scratch(GetParam() + "/config");
  AutoBridge::from_hf_pretrained(hf()).import_ckpt(ours);
  const config::Yaml mine = model_section(ours), theirs = model_section(megatron());
  for (const auto& [key, value] : theirs.members()) {
    const config::Yaml* other = mine.find(key.as_string());
    ASSERT_NE(other, nullptr) << key.as_string();
    EXPECT_TRUE(*other == value) << key.as_string() << ": " << config::emit_yaml(*other) << " against "
                                 << config::emit_yaml(value);
  }
  EXPECT_EQ(mine.members().size(), theirs.members().size());
}

TEST_P(GoldenFamily, ExportOfUpstreamsEqualsTheSource) {
  const Path out = scratch(GetParam() + "/export");
  AutoBridge::export_ckpt(megatron(), out, {}, {}, {.reference = hf()});
  expect_equal(open_raw_checkpoint(out), open_raw_checkpoint(hf()));
}

// The files themselves come back, headers and side files included.
TEST_P(GoldenFamily, RoundTripGivesTheSourcesFiles) {
  const Path ours = scratch(GetParam() + "/there"), back = scratch(GetParam() + "/back");
  AutoBridge::from_hf_pretrained(hf()).import_ckpt(ours, {.parallel = {.tp = 2, .pp = 1}});
  AutoBridge::export_ckpt(ours, back);
  size_t files = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(hf())) {
    const Path other = back / entry.path().filename();
    ASSERT_TRUE(fs::exists(other)) << other;
    EXPECT_EQ(read_text_file(other), read_text_file(entry.path())) << other;
    ++files;
  }
  EXPECT_GE(files, 4u);
  EXPECT_TRUE(check_manifest(ours, {}).holds());
  EXPECT_TRUE(check_manifest(back, {}).holds());
}

// What of a source run_config.yaml alone does not tell, by fixture.
struct Untold {
  std::string_view fixture;
  std::string_view left_out;  // names of tensors that every reader computes for itself end so
  bool other_form = false;    // the weights come in the family's usual form
};
constexpr Untold kUntold[] = {
    {.fixture = "moonlight", .left_out = ".self_attn.rotary_emb.inv_freq"},
    {.fixture = "glm45_fused", .other_form = true},
};

// With everything removed that import kept for the way back, run_config.yaml alone tells the model.
TEST_P(GoldenFamily, ExportNeedsNothingButTheCheckpoint) {
  const Path out = scratch(GetParam() + "/bare");
  AutoBridge::export_ckpt(megatron(), out);
  EXPECT_TRUE(fs::exists(out / "config.json"));
  EXPECT_TRUE(fs::exists(out / "tokenizer.json"));
  Untold untold;
  for (const Untold& each : kUntold)
    if (each.fixture == GetParam()) untold = each;
  if (untold.other_form) {
    // The same model in another form: it imports to the same bits.
    const Path again = scratch(GetParam() + "/again");
    AutoBridge::from_hf_pretrained(out).import_ckpt(again);
    return expect_equal(open_raw_checkpoint(again), open_raw_checkpoint(megatron()));
  }
  Comparison comparison = compare(raw_view(open_raw_checkpoint(out)), raw_view(open_raw_checkpoint(hf())), {});
  const size_t left_out = std::erase_if(comparison.differences, [&](const Difference& difference) {
    return !untold.left_out.empty() && difference.tensor.ends_with(untold.left_out) &&
           difference.what.starts_with("only in");
  });
  EXPECT_TRUE(comparison.equal()) << text_of(comparison);
  EXPECT_EQ(left_out > 0, !untold.left_out.empty());
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenFamily, testing::ValuesIn(families_of_fixtures()),
                         [](const auto& info) { return info.param; });

// Checkpoints as upstream writes them under other layouts and in older generations.
struct Run {
  const char* name;
  const char* model;
};

class GoldenRun : public testing::TestWithParam<Run> {};

TEST_P(GoldenRun, ExportsToTheSourcesBytes) {
  const Path run = kFixtures / "runs" / GetParam().name / "megatron";
  const Path hf = kFixtures / "runs/_models" / GetParam().model / "hf";
  const Path out = scratch(std::string(GetParam().name) + "/export");
  AutoBridge::export_ckpt(run, out, {}, {}, {.reference = hf});
  expect_equal(open_raw_checkpoint(out), open_raw_checkpoint(hf));
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, GoldenRun,
    testing::Values(Run{"llama_tp2_pp2", "llama_tied"}, Run{"llama_pp2_vpp2", "llama4"},
                    Run{"llama_tp2_dp2_fpsave", "llama4"}, Run{"llama_tp2_dp2_nofpsave", "llama4"},
                    Run{"qwen3_moe_tp2_pp2_ep2", "qwen3_moe"}, Run{"qwen3_moe_ep2_nofpsave", "qwen3_moe"},
                    Run{"qwen3_moe_tp2_ep2_etp2", "qwen3_moe"}, Run{"gena_core014_llama_tp2", "llama"},
                    Run{"mlm_torch_dist_llama_tp2", "llama"}),
    [](const auto& info) { return std::string(info.param.name); });

// Megatron's other forms (form_fixtures.py): what the ranks hold of a Megatron-LM run, Megatron-FSDP, NeMo 2. None
// of them gets help: args, run_config.yaml or context/model.yaml alone say which model it is.
class GoldenForm : public testing::TestWithParam<std::string> {
 protected:
  Path form() const { return kFixtures / "forms" / GetParam(); }
  Path megatron() const { return form() / "megatron"; }
  Path hf() const {
    const Path note = form() / "oracle.json";
    return form() / Json::parse(read_text_file(note), note.string()).at("model").as_string() / "hf";
  }
};

TEST_P(GoldenForm, ExportsToTheSourcesBytes) {
  const Path out = scratch(GetParam() + "/export");
  AutoBridge::export_ckpt(megatron(), out);
  expect_equal(open_raw_checkpoint(out), open_raw_checkpoint(hf()));
}

TEST_P(GoldenForm, ConvertsToWhatImportWrites) {
  const Path converted = scratch(GetParam() + "/torch_dist"), imported = scratch(GetParam() + "/import");
  const auto source = open_checkpoint(megatron());
  run(plan_import(*source, converted, {.parallel = {.tp = 2}}), {});
  AutoBridge::from_hf_pretrained(hf()).import_ckpt(imported, {.parallel = {.tp = 2}});
  expect_equal(open_raw_checkpoint(converted), open_raw_checkpoint(imported));
  EXPECT_EQ(extra_states(converted), extra_states(imported));
}

// Written for Megatron-LM, read back from its args alone.
TEST_P(GoldenForm, MegatronLmsArgsTellTheModel) {
  const Path converted = scratch(GetParam() + "/mlm"), out = scratch(GetParam() + "/mlm-export");
  const auto source = open_checkpoint(megatron());
  const int64_t iteration = source->run_state().iteration.value_or(0);
  run(plan_import(*source, converted,
                  {.dialect = MegatronDialect::kMegatronLm, .parallel = {.tp = 2}, .iteration = iteration}),
      {});
  const Path folder = formats::resolve_iteration(converted, std::nullopt);
  EXPECT_EQ(folder.filename(), iteration == 0 ? "release" : "iter_0000003");
  EXPECT_FALSE(fs::exists(folder / "run_config.yaml"));
  fs::remove_all(folder / kRecordFolder);
  const auto again = open_checkpoint(converted);
  EXPECT_EQ(again->arch().layers, source->arch().layers);
  EXPECT_EQ(again->run_state().args.at("tensor_model_parallel_size").as_int(), 2);
  AutoBridge::export_ckpt(converted, out);
  expect_equal(open_raw_checkpoint(out), open_raw_checkpoint(hf()));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenForm,
                         testing::Values("legacy_llama_tp1", "legacy_llama_tp2", "legacy_llama_tied_tp2_pp2",
                                         "legacy_qwen3_moe_pp2_ep2", "fsdp_llama", "fsdp_qwen3_moe", "nemo_llama"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace viaduct::bridge
