#include "viaduct/bridge/megatron_config.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "viaduct/bridge/hf_checkpoint.h"
#include "viaduct/config/megatron_args.h"
#include "viaduct/config/run_config.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/rank_folders.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/models/nemo_config.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;
using formats::PickleValue;

std::optional<SourceRecord> find_record(const Path& iteration) {
  if (auto record = read_record(iteration)) return record;
  for (const Path& sibling : sibling_iterations(iteration))
    if (auto record = read_record(sibling)) return record;
  return std::nullopt;
}

namespace {

Path nemo_context(const Path& iteration) {
  return fs::absolute(iteration).lexically_normal().parent_path() / "context";
}

// The tokenizer that Megatron Bridge keeps in the checkpoint, or NeMo beside it.
std::vector<SideFile> tokenizer_files(const Path& iteration) {
  for (const Path& folder : {iteration / "tokenizer", nemo_context(iteration) / "nemo_tokenizer"})
    if (fs::is_directory(folder)) return find_side_files(folder);
  return {};
}

}  // namespace

PickleValue read_megatron_args(const Path& iteration) {
  PickleValue state;
  if (formats::is_torch_dist_directory(iteration)) {
    state = formats::read_common_state(iteration);
  } else if (formats::has_rank_folders(iteration)) {
    static constexpr std::array<std::string_view, 1> kWanted = {"args"};
    state =
        formats::read_torch_parts(formats::find_rank_folders(iteration).front().file, std::nullopt, kWanted).values;
  }
  const PickleValue* args = state.find("args");
  return args ? *args : PickleValue();
}

std::optional<config::ModelConfig> find_provider(const Path& iteration, const PickleValue& args,
                                                 int64_t vocabulary_rows) {
  if (const Path file = iteration / "run_config.yaml"; fs::exists(file)) return config::read_run_config(file).model;
  std::optional<config::ModelConfig> provider;
  if (const Path file = nemo_context(iteration) / "model.yaml"; fs::exists(file)) {
    provider = models::read_nemo_config(file);
  } else if (config::is_namespace(args)) {
    provider = config::model_config_from_args(args, iteration.string());
  }
  if (provider && !provider->vocab_size && vocabulary_rows > 0) provider->vocab_size = vocabulary_rows;
  return provider;
}

MegatronConfig find_megatron_config(const Path& iteration, const PickleValue& args, const OpenOptions& options,
                                    int64_t vocabulary_rows) {
  MegatronConfig result;
  SourceRecord& record = result.record;
  if (options.reference) {
    record = read_hf_record(*options.reference);
  } else if (auto found = find_record(iteration)) {
    record = std::move(*found);
  }
  if (record.config) {
    const std::string origin = options.reference ? (*options.reference / "config.json").string()
                                                 : (iteration / kRecordFolder / "source/config.json").string();
    const models::HfConfig config(*record.config, origin);
    result.arch = models::read_arch(config);
    std::unordered_map<std::string_view, const Shape*> listed;
    for (const ListedTensor& tensor : record.tensors) listed.emplace(tensor.name, &tensor.shape);
    const auto shape_of = [&](std::string_view name) -> std::optional<Shape> {
      const auto it = listed.find(name);
      return it == listed.end() ? std::nullopt : std::optional(*it->second);
    };
    models::family_named(result.arch.family).complete(config, shape_of, result.arch);
    return result;
  }
  const std::optional<config::ModelConfig> provider = find_provider(iteration, args, vocabulary_rows);
  VIADUCT_USER_CHECK(
      provider,
      "{} holds neither {}/record.json nor run_config.yaml nor Megatron-LM's args, so nothing says which "
      "model it is. Give --reference HF_FOLDER with the Hugging Face model that it came from",
      iteration.string(), kRecordFolder);
  try {
    result.arch = models::read_arch(*provider);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", iteration.string(), error.what()));
  }
  record.config = models::hf_config_for(result.arch, *provider);
  record.side_files = tokenizer_files(iteration);
  record.side_files.push_back({"config.json", {}, record.config->dump(2) + "\n"});
  return result;
}

}  // namespace viaduct::bridge
