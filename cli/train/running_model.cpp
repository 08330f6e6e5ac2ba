#include "cli/train/running_model.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "viaduct/bridge/provider.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/nn/live.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::cli {

namespace {

// A folder of its own that is gone when it is no longer needed.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "viaduct-tokenizer-XXXXXX").string();
    if (!mkdtemp(name.data())) throw_system(name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const Path& path() const { return path_; }

 private:
  Path path_;
};

config::ModelConfig runtime_config(const bridge::Checkpoint& source, const ModelOptions& options) {
  config::ModelConfig config = bridge::provider_in_layout(source, {.parallel = options.layout.parallel});
  config.set_attention_backend(options.attention_backend);
  config.sequence_parallel = false;  // an answer grows by one position at a time
  return config;
}

}  // namespace

std::unique_ptr<text::Tokenizer> tokenizer_of(const bridge::Checkpoint& source) {
  const bridge::SourceRecord& record = source.record();
  const TemporaryFolder folder;
  for (const bridge::SideFile& file : record.side_files) {
    const Path target = folder.path() / file.name;
    std::filesystem::create_directories(target.parent_path());
    std::ofstream out(target, std::ios::binary);
    out << record.read(file);
    VIADUCT_USER_CHECK(out.good(), "cannot write {}", target.string());
  }
  if (record.config && !record.find("config.json"))
    std::ofstream(folder.path() / "config.json", std::ios::binary) << record.config->dump();
  try {
    return text::open_tokenizer(folder.path());
  } catch (const UserError& error) {
    // The user knows the model, not the copy of its files.
    std::string message = error.what();
    const std::string copy = folder.path().string();
    for (size_t at = message.find(copy); at != std::string::npos; at = message.find(copy))
      message.replace(at, copy.size(), source.path().string());
    throw UserError(message + ". --tokenizer DIR names another");
  }
}

RunningModel::RunningModel(const std::string& path_or_name, const ModelOptions& options, Ranks& ranks)
    : options_(options), ranks_(ranks) {
  const parallel::Mesh& mesh = ranks.mesh();
  source_ =
      nn::open_on_all_ranks(path_or_name, mesh, {.iteration = options.iteration}, ranks.progress(), ranks.device());
  const std::optional<DType> wanted = parse_optional_dtype(options.dtype);
  // The ranks outlive the model.
  context_ = nn::make_context(source_->arch(), runtime_config(*source_, options),
                              std::shared_ptr<const parallel::Mesh>(std::shared_ptr<void>(), &mesh),
                              torchx::scalar_type(wanted.value_or(source_->arch().dtype)), ranks.device());
}

const text::Tokenizer& RunningModel::tokenizer() {
  if (!tokenizer_)
    tokenizer_ = options_.tokenizer.empty() ? tokenizer_of(*source_) : text::open_tokenizer(options_.tokenizer);
  return *tokenizer_;
}

std::span<const std::shared_ptr<nn::GptModel>> RunningModel::load() {
  if (!chunks_.empty()) return chunks_;
  chunks_ = nn::make_model(context_);
  const nn::ModelChunks modules(chunks_.begin(), chunks_.end());
  const nn::LoadReport loaded = nn::load_weights(*source_, modules, ranks_.mesh(), {.progress = ranks_.progress()});
  ranks_.say(fmt::format("loaded {} of {} ({}) in {}", human_bytes(loaded.bytes_loaded), source_->path().string(),
                         context_->arch.family, human_seconds(loaded.seconds)));
  return chunks_;
}

infer::GenerateOptions generate_options(const SamplingFlags& flags, const std::vector<int32_t>& stop_ids) {
  infer::GenerateOptions options;
  options.max_new_tokens = flags.max_new_tokens;
  options.sampling = {flags.temperature, flags.top_k, flags.top_p, flags.min_p, flags.seed};
  options.sampling.validate();
  options.stop_ids = stop_ids;
  return options;
}

}  // namespace viaduct::cli
