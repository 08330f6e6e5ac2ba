// Laws of conversion, for every family under random sizes and layouts: there and back is the identity, and the
// layout a checkpoint was cut for makes no difference to what is read from it.
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/bridge/random_model.h"
#include "viaduct/bridge/auto_bridge.h"
#include "viaduct/formats/safetensors_writer.h"

namespace viaduct::bridge {
namespace {

namespace fs = std::filesystem;
using topology::Parallelism;

class Laws : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    // In memory where there is such a place: thousands of small conversions, each of which syncs its files.
    const Path scratch = ::access("/dev/shm", W_OK) == 0 ? Path("/dev/shm") : Path(testing::TempDir());
    folder_ = scratch / fmt::format("viaduct-laws-{}-{}", ::getpid(), GetParam());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  const models::Family& family() const { return models::families()[GetParam()]; }

  // The model in one of the family's forms that a checkpoint's tensors alone tell.
  models::ArchSpec in_some_form(const models::HfConfig& config, const models::ArchSpec& arch) {
    models::ArchSpec wanted = arch;
    wanted.form = static_cast<int>(random_.bits() % (1 + family().other_forms.size()));
    const WeightGraph graph = build_weight_graph(wanted);
    models::ArchSpec found = arch;
    family().complete(
        config,
        [&](std::string_view name) -> std::optional<Shape> {
          const auto it = graph.hf_ids.find(std::string(name));
          return it == graph.hf_ids.end() ? std::nullopt
                                          : std::optional(graph.hf_tensors[static_cast<size_t>(it->second)].shape);
        },
        found);
    return found;
  }

  // A model of odd sizes with random bits in every weight, NaN payloads among them.
  Path make_model(int number) {
    const Json config = random_.config();
    const models::HfConfig hf(config, "toy");
    const WeightGraph graph = build_weight_graph(in_some_form(hf, models::read_arch(hf)));
    std::vector<std::pair<formats::StoredTensor, std::vector<std::byte>>> tensors;
    const bool wide = random_.bits() % 2 == 0;  // what Megatron holds as float32 comes as that, or as bfloat16
    for (size_t i = 0; i < graph.hf_tensors.size(); ++i) {
      const layout::Expr::Input& input = graph.hf_tensors[i];
      const auto parameter = static_cast<size_t>(graph.parameters_of(i).at(0));
      const bool float32 = wide && graph.parameters[parameter].stored_type == models::StoredType::kFloat32;
      const DType dtype = float32 ? DType::kF32 : DType::kBF16;
      std::vector<std::byte> bytes(static_cast<size_t>(num_bytes(dtype, num_elements(input.shape))));
      for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_.bits());
      tensors.push_back({{input.name, dtype, input.shape, {}}, std::move(bytes)});
    }
    const Path path = folder_ / fmt::format("hf{}", number);
    fs::create_directories(path);
    write_file(path / "config.json", config.dump(2));
    write_file(path / "model.safetensors", formats::safetensors_file(tensors));
    return path;
  }

  std::string differences(const Path& a, const Path& b) {
    std::string text;
    const RawCheckpoint left = open_raw_checkpoint(a), right = open_raw_checkpoint(b);
    for (const Difference& difference : compare(raw_view(left), raw_view(right), {}).differences)
      text += difference.tensor + ": " + difference.what + "\n";
    return text;
  }

  Path folder_;
  RandomModel random_{family(), 20260101 + GetParam()};
};

TEST_P(Laws, ThereAndBackUnderFiftyLayouts) {
  int cut_by_tp = 0, cut_by_pp = 0, cut_by_ep = 0, padded = 0, with_experts = 0;
  for (int i = 0; i < 50; ++i) {
    const Path hf = make_model(i);
    const AutoBridge bridge = AutoBridge::from_hf_pretrained(hf);
    const Parallelism first = random_.layout(bridge.arch()), second = random_.layout(bridge.arch());
    const Path one = folder_ / "one", two = folder_ / "two", direct = folder_ / "direct", back = folder_ / "back";
    bridge.import_ckpt(one, {.parallel = first});
    // Read under the first layout, written under the second: as if imported under the second.
    AutoBridge::from_hf_pretrained(one).import_ckpt(two, {.parallel = second});
    bridge.import_ckpt(direct, {.parallel = second});
    EXPECT_EQ(differences(two, direct), "") << i;
    AutoBridge::export_ckpt(two, back);
    EXPECT_TRUE(read_text_file(back / "model.safetensors") == read_text_file(hf / "model.safetensors"))
        << i << ": " << differences(back, hf);
    EXPECT_EQ(read_text_file(back / "config.json"), read_text_file(hf / "config.json")) << i;
    cut_by_tp += first.tp > 1;
    cut_by_pp += first.pp > 1;
    cut_by_ep += first.ep > 1;
    with_experts += bridge.arch().has_moe();
    padded += bridge.arch().embedding.vocab_size % first.tp != 0;
    for (const Path& path : {hf, one, two, direct, back}) fs::remove_all(path);
    if (HasFailure()) return;
  }
  // The layouts were worth something.
  EXPECT_GE(cut_by_tp, 10);
  EXPECT_GE(cut_by_pp, 10);
  EXPECT_GE(padded, 3);
  if (with_experts == 50) {
    EXPECT_GE(cut_by_ep, 10);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Laws, testing::Range<size_t>(0, models::families().size()),
                         [](const auto& info) { return std::string(models::families()[info.param].name); });

}  // namespace
}  // namespace viaduct::bridge
