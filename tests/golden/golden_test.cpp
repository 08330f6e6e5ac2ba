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

// The four checks in which a fixture may have an exception.
enum Check { kImport, kRunConfig, kExport, kBareExport };

// Where a fixture holds a slip of upstream's or a form that run_config.yaml does not tell: what then differs, all
// of it and nothing else.
struct Exception {
  const char* fixture;
  Check check;
  const char* reason;
  std::set<std::string> differs;  // tensors, or fields of run_config.yaml
  std::string below;              // tensors whose names begin so
  std::string ends;               // tensors whose names end so
  std::string error;              // the conversion is refused with this in the message
  std::optional<DType> cast;      // with this --dtype ours is upstream's; without, the source's own type stays
  bool comes_back_in_usual_form = false;  // importing what was written gives upstream's checkpoint again
};

const std::vector<Exception>& exceptions() {
  static const std::vector<Exception> kExceptions = {
      {.fixture = "qwen3_vl_bias",
       .check = kImport,
       .reason = "upstream loses the bias of o_proj",
       .differs = {"language_model.decoder.layers.self_attention.linear_proj.bias"}},
      {.fixture = "qwen3_vl_bias",
       .check = kExport,
       .reason = "the bias of o_proj is not in upstream's checkpoint",
       .error = "missing: language_model.decoder.layers.self_attention.linear_proj.bias"},
      {.fixture = "qwen3_vl_bias",
       .check = kBareExport,
       .reason = "the bias of o_proj is not in upstream's checkpoint",
       .error = "missing: language_model.decoder.layers.self_attention.linear_proj.bias"},
      {.fixture = "qwen3_vl_moe_v4",
       .check = kBareExport,
       .reason = "transformers 4 lays experts otherwise, which run_config.yaml does not tell",
       .differs = {"model.language_model.layers.0.mlp.experts.down_proj",
                   "model.language_model.layers.0.mlp.experts.gate_up_proj",
                   "model.language_model.layers.1.mlp.experts.down_proj",
                   "model.language_model.layers.1.mlp.experts.gate_up_proj"},
       .comes_back_in_usual_form = true},
      {.fixture = "qwen25_vl",
       .check = kRunConfig,
       .reason = "upstream pins it, whatever config.json says",
       .differs = {"mrope_section"}},
      {.fixture = "qwen25_vl_flat",
       .check = kRunConfig,
       .reason = "upstream pins it, whatever config.json says",
       .differs = {"mrope_section"}},
      {.fixture = "qwen25_vl_nodtype",
       .check = kRunConfig,
       .reason = "upstream does not see the dtype beside text_config, and pins mrope_section",
       .differs = {"mrope_section"},
       .cast = DType::kF32},
      {.fixture = "qwen25_vl_nodtype",
       .check = kImport,
       .reason = "upstream does not see the dtype beside text_config",
       .cast = DType::kF32},
      {.fixture = "qwen25_vl_nodtype",
       .check = kExport,
       .reason = "upstream's checkpoint is float32",
       .cast = DType::kBF16},
      {.fixture = "qwen25_vl_nodtype",
       .check = kBareExport,
       .reason = "upstream's checkpoint is float32",
       .cast = DType::kBF16},
      {.fixture = "qwen3_next",
       .check = kBareExport,
       .reason = "bf16(w - 1) loses bits of w below 0.5, and upstream keeps no copy",
       .differs = {"model.layers.2.linear_attn.norm.weight"}},
      {.fixture = "qwen3_next_public",
       .check = kImport,
       .reason = "upstream drops mtp.* where config.json does not mention it",
       .below = "mtp."},
      {.fixture = "qwen3_next_public",
       .check = kRunConfig,
       .reason = "upstream drops mtp.* where config.json does not mention it",
       .differs = {"mtp_num_layers"}},
      {.fixture = "qwen3_next_public",
       .check = kExport,
       .reason = "upstream's checkpoint has no mtp.*",
       .error = "missing: mtp."},
      {.fixture = "qwen3_next_public",
       .check = kBareExport,
       .reason = "upstream's checkpoint has no mtp.*, and bf16(w - 1) loses bits",
       .differs = {"model.layers.2.linear_attn.norm.weight"},
       .below = "mtp."},
      {.fixture = "moonlight",
       .check = kBareExport,
       .reason = "rotary frequencies, which every reader computes for itself",
       .ends = ".self_attn.rotary_emb.inv_freq"},
      {.fixture = "glm45_fused",
       .check = kBareExport,
       .reason = "experts in one tensor are a form that run_config.yaml does not tell",
       .below = "model.layers.",
       .comes_back_in_usual_form = true},
      {.fixture = "nemotron3_super",
       .check = kBareExport,
       .reason = "upstream stores these float32 tensors as bfloat16, and keeps no copy",
       .differs = {"backbone.layers.0.mixer.A_log", "backbone.layers.0.mixer.D", "backbone.layers.2.mixer.A_log",
                   "backbone.layers.2.mixer.D"}},
      {.fixture = "nemotron_nano_v2_vl",
       .check = kBareExport,
       .reason = "run_config.yaml does not tell the vision tower's sizes",
       .error = "llava_model.vision_model"},
      {.fixture = "gemma3_vl",
       .check = kRunConfig,
       .reason = "upstream pins the projector's image, patch and token numbers to those of the published models",
       .differs = {"vision_projector_config"}},
      {.fixture = "gemma3_vl_v4",
       .check = kRunConfig,
       .reason = "upstream pins the projector's image, patch and token numbers to those of the published models",
       .differs = {"vision_projector_config"}},
      {.fixture = "gemma3_vl_v4",
       .check = kBareExport,
       .reason = "run_config.yaml does not tell the tensor names of transformers 4",
       .below = "vision_tower.",
       .comes_back_in_usual_form = true},
      {.fixture = "ministral3",
       .check = kRunConfig,
       .reason = "upstream pins it to false, transformers rounds the range",
       .differs = {"yarn_correction_range_round_to_int"}},
  };
  return kExceptions;
}

const Exception& exception_of(const std::string& fixture, Check check) {
  static const Exception kNone = {};
  for (const Exception& each : exceptions())
    if (each.fixture == fixture && each.check == check) return each;
  return kNone;
}

void expect_equal(const RawCheckpoint& a, const RawCheckpoint& b, const Exception& exception = {}) {
  const Comparison comparison = compare(raw_view(a), raw_view(b), {}, 1000);
  std::set<std::string> names;
  size_t below = 0;
  for (const Difference& difference : comparison.differences) {
    const bool named = (!exception.below.empty() && difference.tensor.starts_with(exception.below)) ||
                       (!exception.ends.empty() && difference.tensor.ends_with(exception.ends));
    if (named) {
      ++below;
    } else {
      names.insert(difference.tensor);
    }
  }
  EXPECT_EQ(names, exception.differs) << text_of(comparison);
  EXPECT_EQ(below > 0, !exception.below.empty() || !exception.ends.empty());
  EXPECT_GT(comparison.tensors, 0u);
}

template <class Convert>
void expect_refused(const Exception& exception, Convert convert) {
  try {
    convert();
    ADD_FAILURE() << "not refused, although " << exception.reason;
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find(exception.error), std::string::npos) << error.what();
  }
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

// Those that upstream imports, or the others.
std::vector<std::string> families_of_fixtures(bool imported) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFixtures / "families"))
    if (fs::exists(entry.path() / "megatron") == imported) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class GoldenFamily : public testing::TestWithParam<std::string> {
 protected:
  Path hf() const { return kFixtures / "families" / GetParam() / "hf"; }
  Path megatron() const { return kFixtures / "families" / GetParam() / "megatron"; }
};

TEST_P(GoldenFamily, ImportEqualsUpstreams) {
  const Exception& exception = exception_of(GetParam(), kImport);
  const Path ours = scratch(GetParam() + "/import");
  AutoBridge::from_hf_pretrained(hf()).import_ckpt(ours, {.dtype = exception.cast});
  expect_equal(open_raw_checkpoint(ours), open_raw_checkpoint(megatron()), exception);
  if (exception.below.empty()) {
    EXPECT_EQ(extra_states(ours), extra_states(megatron()));
  }
  for (const std::string& name : extra_states(megatron())) EXPECT_TRUE(extra_states(ours).contains(name)) << name;
}

TEST_P(GoldenFamily, RunConfigEqualsUpstreams) {
  const Exception& exception = exception_of(GetParam(), kRunConfig);
  const Path ours = scratch(GetParam() + "/config");
  AutoBridge::from_hf_pretrained(hf()).import_ckpt(ours, {.dtype = exception.cast});
  const config::Yaml mine = model_section(ours), theirs = model_section(megatron());
  for (const auto& [key, value] : theirs.members()) {
    const config::Yaml* other = mine.find(key.as_string());
    ASSERT_NE(other, nullptr) << key.as_string();
    EXPECT_EQ(*other == value, !exception.differs.contains(key.as_string()))
        << key.as_string() << ": " << config::emit_yaml(*other) << " against " << config::emit_yaml(value);
  }
  EXPECT_EQ(mine.members().size(), theirs.members().size());
}

TEST_P(GoldenFamily, ExportOfUpstreamsEqualsTheSource) {
  const Exception& exception = exception_of(GetParam(), kExport);
  const Path out = scratch(GetParam() + "/export");
  const auto export_it = [&] {
    AutoBridge::export_ckpt(megatron(), out, {.dtype = exception.cast}, {}, {.reference = hf()});
  };
  if (!exception.error.empty()) return expect_refused(exception, export_it);
  export_it();
  expect_equal(open_raw_checkpoint(out), open_raw_checkpoint(hf()), exception);
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

// With everything removed that import kept for the way back, run_config.yaml alone tells the model.
TEST_P(GoldenFamily, ExportNeedsNothingButTheCheckpoint) {
  const Exception& exception = exception_of(GetParam(), kBareExport);
  const Path out = scratch(GetParam() + "/bare");
  const auto export_it = [&] { AutoBridge::export_ckpt(megatron(), out, {.dtype = exception.cast}); };
  if (!exception.error.empty()) return expect_refused(exception, export_it);
  export_it();
  expect_equal(open_raw_checkpoint(out), open_raw_checkpoint(hf()), exception);
  if (exception.comes_back_in_usual_form) {
    const Path again = scratch(GetParam() + "/again");
    AutoBridge::from_hf_pretrained(out).import_ckpt(again);
    expect_equal(open_raw_checkpoint(again), open_raw_checkpoint(megatron()));
  }
  EXPECT_TRUE(fs::exists(out / "config.json"));
  EXPECT_TRUE(fs::exists(out / "tokenizer.json"));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenFamily, testing::ValuesIn(families_of_fixtures(true)),
                         [](const auto& info) { return info.param; });

// Models that upstream cannot import: there and back, with run_config.yaml alone, and layout by layout the same.
class GoldenAlone : public GoldenFamily {};

TEST_P(GoldenAlone, ComesBackFromRunConfigAlone) {
  const Path one = scratch(GetParam() + "/one"), cut = scratch(GetParam() + "/cut");
  const Path back = scratch(GetParam() + "/back"), bare = scratch(GetParam() + "/bare");
  AutoBridge::from_hf_pretrained(hf()).import_ckpt(one);
  AutoBridge::from_hf_pretrained(hf()).import_ckpt(cut, {.parallel = {.tp = 2, .pp = 3}});
  expect_equal(open_raw_checkpoint(cut), open_raw_checkpoint(one));
  AutoBridge::export_ckpt(cut, back);
  for (const fs::directory_entry& entry : fs::directory_iterator(hf()))
    EXPECT_EQ(read_text_file(back / entry.path().filename()), read_text_file(entry.path())) << entry.path();
  fs::remove_all(formats::resolve_iteration(cut, std::nullopt) / kRecordFolder);
  AutoBridge::export_ckpt(cut, bare);
  expect_equal(open_raw_checkpoint(bare), open_raw_checkpoint(hf()));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, GoldenAlone, testing::ValuesIn(families_of_fixtures(false)),
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
