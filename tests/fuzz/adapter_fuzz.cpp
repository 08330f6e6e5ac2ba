// adapter_config.json and the tensors beside it: what a PEFT folder says must end in an adapter's updates or a
// UserError. The input is the configuration, a zero byte, and lines "NAME ROWS COLUMNS" of tensors.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>

#include "viaduct/adapters/adapter_files.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/safetensors_writer.h"
#include "viaduct/models/registry.h"

namespace {

using namespace viaduct;

// A llama with two tiny layers, as an opened base without weights.
class Base : public bridge::Checkpoint {
 public:
  Base() : Checkpoint(bridge::World::kHuggingFace, "base") {
    const models::Family& family = models::family_named("llama");
    Json config = Json::parse(family.toy_config, "toy");
    record_.config = config;
    graph_ = bridge::build_weight_graph(models::read_arch(models::HfConfig(std::move(config), "toy")));
  }
};

const Base& base() {
  static const Base opened;
  return opened;
}

const Path& folder() {
  static const Path made = [] {
    const Path path = std::filesystem::temp_directory_path() / fmt::format("adapter-fuzz-{}", ::getpid());
    std::filesystem::create_directories(path);
    return path;
  }();
  return made;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find('\0');
  std::vector<std::pair<formats::StoredTensor, std::vector<std::byte>>> tensors;
  std::istringstream lines{std::string(end == std::string_view::npos ? "" : text.substr(end + 1))};
  std::string name;
  for (int64_t rows = 0, cols = 0; tensors.size() < 64 && lines >> name >> rows >> cols;) {
    if (rows < 0 || cols < 0 || rows > 4096 || cols > 4096 || rows * cols > 65536) continue;
    formats::StoredTensor tensor;
    tensor.name = name;
    tensor.dtype = DType::kBF16;
    tensor.shape = {rows, cols};
    tensors.emplace_back(std::move(tensor), std::vector<std::byte>(static_cast<size_t>(2 * rows * cols)));
  }
  try {
    write_file(folder() / "adapter_model.safetensors", formats::safetensors_file(tensors));
  } catch (const UserError&) {
    return 0;  // two tensors of one name: no such file
  }
  write_file(folder() / "adapter_config.json", text.substr(0, end));
  for (const adapters::PeftView view : {adapters::PeftView::kUpdates, adapters::PeftView::kMegatron}) {
    try {
      adapters::AdapterOptions options;
      options.view = view;
      const auto adapter = adapters::open_adapter(folder(), base(), options);
      VIADUCT_CHECK(!adapter->updates().empty());
      for (const adapters::AdapterUpdate& update : adapter->updates()) {
        const auto matrices = adapter->read(update);
        VIADUCT_CHECK_EQ(static_cast<int64_t>(matrices.a.size()), update.rank * update.in);
        VIADUCT_CHECK_EQ(static_cast<int64_t>(matrices.b.size()), update.rank * update.out);
        (void)adapter->scaling(update);
      }
    } catch (const UserError&) {
      // what a damaged folder must end in
    }
  }
  return 0;
}
