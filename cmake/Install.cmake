# cmake --install: the program, the libraries with their headers, and what find_package(Viaduct) needs.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Viaduct)
install(TARGETS viaduct RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
foreach(layer IN LISTS VIADUCT_LAYERS)
  # The training side is not installed: text/ carries crates, the layers from torchx/ on libtorch.
  if(layer STREQUAL torchx)
    break()
  endif()
  if(TARGET viaduct_${layer} AND NOT layer STREQUAL "text")
    set_target_properties(viaduct_${layer} PROPERTIES EXPORT_NAME ${layer})
    list(APPEND libraries viaduct_${layer})
  endif()
endforeach()
set_target_properties(viaduct_options PROPERTIES EXPORT_NAME options)
install(TARGETS ${libraries} fmt-static viaduct_options EXPORT Viaduct
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT library)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/viaduct/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/viaduct COMPONENT library
        FILES_MATCHING PATTERN "*.h" PATTERN "model_config_fields.inc")
install(EXPORT Viaduct NAMESPACE viaduct:: DESTINATION ${package} COMPONENT library)

write_basic_package_version_file(${PROJECT_BINARY_DIR}/ViaductConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES cmake/ViaductConfig.cmake cmake/StaticLibrary.cmake ${PROJECT_BINARY_DIR}/ViaductConfigVersion.cmake
        DESTINATION ${package} COMPONENT library)

# viaduct_installs_print(WORDS FILE): what `viaduct WORDS` prints, as FILE below the shared folder.
function(viaduct_installs_print WORDS FILE)
  set(printed ${PROJECT_BINARY_DIR}/printed/${FILE})
  cmake_path(GET FILE PARENT_PATH folder)
  install(CODE "file(MAKE_DIRECTORY \"${PROJECT_BINARY_DIR}/printed/${folder}\")
    execute_process(COMMAND \"$<TARGET_FILE:viaduct>\" ${WORDS} OUTPUT_FILE \"${printed}\" COMMAND_ERROR_IS_FATAL ANY)"
    COMPONENT program)
  install(FILES ${printed} DESTINATION ${CMAKE_INSTALL_DATADIR}/${folder} COMPONENT program)
endfunction()
viaduct_installs_print("completion bash" bash-completion/completions/viaduct)
viaduct_installs_print("completion zsh" zsh/site-functions/_viaduct)
viaduct_installs_print("completion fish" fish/vendor_completions.d/viaduct.fish)
viaduct_installs_print("man" man/man1/viaduct.1)

install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs COMPONENT program)
