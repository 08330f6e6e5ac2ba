# cmake --install: the program, the libraries with their headers, and what find_package(Viaduct) needs.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Viaduct)
install(TARGETS viaduct RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
foreach(layer IN LISTS VIADUCT_LAYERS)
  if(TARGET viaduct_${layer})
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
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs COMPONENT program)
